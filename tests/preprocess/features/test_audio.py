"""Sounds become the windows that each protocol says: resampled by its formula, rounded, cut and padded."""

from dataclasses import replace

import numpy as np
import pytest

from con360av_jax.errors import MediaError, MetricError
from con360av_jax.evaluate.protocols import FADTK, PAPER, SMALL, AudioProtocol, Protocol
from preprocess.features.audio import audio_settings, rounded_features, windows_of
from preprocess.features.resample import resample_kaiser


def sound_of(protocol: Protocol) -> AudioProtocol:
    assert protocol.sound is not None
    return protocol.sound


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, samples).astype(np.float32)


def by_formula(sound: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Every sample a sum over the whole sound, with the kernel of the published resampler."""
    cut_off = min(rate, wanted) * 0.9475937167399596
    count = -(-len(sound) * wanted // rate)
    place = cut_off * (np.arange(count)[:, None] / wanted - np.arange(len(sound)) / rate)
    inside = np.sqrt(np.clip(1 - (place / 64) ** 2, 0, 1))
    kernel = np.where(np.abs(place) < 64, np.sinc(place) * np.i0(14.769656459379492 * inside), 0)
    return cut_off / rate / np.i0(14.769656459379492) * kernel @ sound.astype(np.float64)


@pytest.mark.parametrize(("rate", "wanted"), [(16_000, 48_000), (48_000, 16_000), (44_100, 48_000), (22_050, 16_000)])
@pytest.mark.parametrize("samples", [1, 50, 997])
def test_resampling_is_the_published_formula(rate: int, wanted: int, samples: int):
    sound = noise(samples)
    got, expected = resample_kaiser(sound, rate, wanted), by_formula(sound, rate, wanted)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-7)


def test_resampling_keeps_a_tone_and_leaves_its_own_rate_alone():
    tone = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    wanted = np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)
    np.testing.assert_allclose(resample_kaiser(tone, 16_000, 48_000)[500:-500], wanted[500:-500], rtol=0, atol=1e-4)
    assert resample_kaiser(tone, 48_000, 48_000) is tone


def test_fadtk_has_a_window_each_second_with_zeros_behind():
    protocol = sound_of(FADTK)
    sound = noise(4 * 48_000)
    windows = windows_of(sound, 48_000, protocol)
    assert windows.shape == (4, 480_000)
    rounded = np.trunc(sound * 32767) / np.float32(32767)
    for second, window in enumerate(windows):
        rest = rounded[second * 48_000 :]
        np.testing.assert_allclose(window[: len(rest)], rest, rtol=0, atol=1e-7)
        assert not window[len(rest) :].any()
    assert windows_of(noise(4 * 16_000), 16_000, protocol).shape == (4, 480_000)
    assert len(windows_of(noise(12 * 48_000 + 1), 48_000, protocol)) == 13
    features = np.array([[1 / 3, 1e-9]], np.float32)
    np.testing.assert_array_equal(rounded_features(features, protocol), features.astype(np.float16))


def test_the_paper_repeats_a_sound_whole_and_takes_one_window():
    protocol = sound_of(PAPER)
    windows = windows_of(noise(4 * 16_000), 16_000, protocol)
    assert windows.shape == (1, 480_000)
    first, second, rest = np.split(windows[0], [192_000, 384_000])
    np.testing.assert_array_equal(first, second)
    assert first.std() > 0.1
    assert not rest.any()
    long = windows_of(noise(13 * 16_000), 16_000, protocol)
    assert long.shape == (1, 480_000)
    features = np.array([[1 / 3]], np.float32)
    assert rounded_features(features, protocol) is features


def test_the_paper_sends_every_sound_through_16_khz():
    tone = np.sin(2 * np.pi * 12_000 * np.arange(48_000) / 48_000).astype(np.float32)
    assert np.abs(windows_of(tone, 48_000, sound_of(PAPER))[0, 1000:40_000]).max() < 1e-3


def test_small_takes_whole_windows_side_by_side():
    protocol = sound_of(SMALL)
    sound = noise(64_000)
    windows = windows_of(sound, 16_000, protocol)
    np.testing.assert_array_equal(windows, sound[:62_400].reshape(4, 15_600))
    with pytest.raises(MediaError, match="has 15599 samples, a window of the protocol 15600"):
        windows_of(noise(15_599), 16_000, protocol)
    with pytest.raises(MediaError, match="is at 48000 Hz, the protocol wants 16000 Hz"):
        windows_of(sound, 48_000, protocol)


@pytest.mark.parametrize("field", ["resampler", "padding", "rounding"])
def test_what_is_not_built_is_refused(field: str):
    with pytest.raises(MetricError, match=f"the protocol's {field} is 'magic', which is not built"):
        audio_settings(replace(sound_of(FADTK), **{field: "magic"}))
