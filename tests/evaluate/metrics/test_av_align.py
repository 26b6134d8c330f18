"""Onsets and motion peaks of synthetic clips; agreement and directions equal values computed by hand."""

import numpy as np
import pytest

from con360av_jax.config.settings import MelConfig
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.metrics.av_align import (
    av_align,
    direction_error,
    flow_magnitude,
    flow_peaks,
    mel_onsets,
    onset_agreement,
)
from con360av_jax.media.mel import log_mel
from con360av_jax.sphere.geometry import direction_from_angles

MEL = MelConfig()
RATE = MEL.sample_rate
SECONDS = 4
FRAMES_PER_SECOND = 8
MOMENTS = (0.5, 1.25, 2.0, 3.3)


def bursts(moments: tuple[float, ...], tone_hz: float, noise: float = 0.0) -> np.ndarray:
    """A decaying tone from each moment on, in seconds."""
    time = np.arange(SECONDS * RATE) / RATE
    sound = noise * np.random.default_rng(0).normal(size=len(time))
    for moment in moments:
        since = np.maximum(time - moment, 0)
        sound += (time >= moment) * np.exp(-since / 0.1) * np.sin(2 * np.pi * tone_hz * since)
    return 0.5 * sound.astype(np.float32)


def onsets(sound: np.ndarray) -> np.ndarray:
    return mel_onsets(log_mel(sound, MEL), MEL)


@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize("tone_hz", [440.0, 3000.0])
def test_tones_begin_where_they_were_put(tone_hz: float, noise: float):
    """Within half a window of the mel, 32 ms: a quarter of AV-Align's tolerance at 8 frames per second."""
    np.testing.assert_allclose(onsets(bursts(MOMENTS, tone_hz, noise)), MOMENTS, atol=0.032)


def test_clicks_are_found_where_they_are():
    sound = np.zeros(SECONDS * RATE, np.float32)
    sound[[round(moment * RATE) for moment in MOMENTS]] = 0.5
    np.testing.assert_allclose(onsets(sound), MOMENTS, atol=0.032)


def test_silence_and_a_steady_tone_have_no_onset():
    time = np.arange(SECONDS * RATE) / RATE
    assert not len(onsets(np.zeros(SECONDS * RATE, np.float32)))
    # Without the edges, where the sound begins and ends: those are onsets like any other.
    steady = log_mel(np.sin(2 * np.pi * 1000 * time).astype(np.float32), MEL)[5:-5]
    assert not len(mel_onsets(steady, MEL))


def test_loudness_does_not_move_onsets():
    loud = bursts(MOMENTS, 440.0, 1e-2)
    np.testing.assert_array_equal(onsets(loud), onsets(loud * np.float32(0.25)))


def picture(moving: tuple[int, ...], step: int = 3) -> np.ndarray:
    """A blurred texture that moves by `step` pixels to the named frames and by one to all others."""
    random = np.random.default_rng(0)
    wide = np.kron(random.integers(0, 255, (8, 24)), np.ones((8, 8)))
    blurred = np.mean([np.roll(wide, shift, axis) for shift in range(-3, 4) for axis in (0, 1)], axis=0)
    place, frames = 0, []
    for frame in range(SECONDS * FRAMES_PER_SECOND):
        place += step if frame in moving else 1
        frames.append(blurred[:, place : place + 64])
    return np.repeat(np.array(frames)[..., None], 3, axis=-1).astype(np.uint8)


def test_flow_is_the_distance_moved_and_peaks_where_it_is_longest():
    frames = picture(moving=(4, 10, 26))
    magnitude = flow_magnitude(frames)
    assert magnitude.shape == (32,)
    assert magnitude[0] == magnitude[1]
    assert np.median(magnitude) == pytest.approx(1.0, abs=0.2)
    assert magnitude[[4, 10, 26]] == pytest.approx(3.0, abs=0.6)
    found = flow_peaks(magnitude, FRAMES_PER_SECOND)
    assert {0.5, 1.25, 3.25} <= set(found.tolist())


def test_peaks_are_strict_maxima_inside():
    found = flow_peaks(np.array([9.0, 1.0, 2.0, 2.0, 1.0, 3.0, 1.0, 8.0]), 2.0)
    np.testing.assert_array_equal(found, [2.5])


def test_a_still_picture_has_no_peaks():
    still = np.repeat(picture(())[:1], 8, axis=0)
    assert not len(flow_peaks(flow_magnitude(still), 8.0))


def test_agreement_by_hand():
    """Onsets 1.0 and 1.1 are both near peak 1.05; 2.0 is exactly one tolerance away, 3.0 far: 2 of 4 + 2 - 2."""
    found = onset_agreement(np.array([1.0, 1.1, 2.0, 3.0]), np.array([1.05, 2.125]), tolerance=0.125)
    assert found == pytest.approx(2 / 4)
    assert onset_agreement(np.array([1.0]), np.array([1.0]), 0.1) == 1
    assert onset_agreement(np.array([1.0]), np.zeros(0), 0.1) == 0
    assert onset_agreement(np.zeros(0), np.zeros(0), 0.1) is None


def test_sound_that_follows_the_picture_agrees_more_than_sound_that_does_not():
    frames = picture(moving=(4, 10, 16, 26))
    scores = [
        av_align(frames, FRAMES_PER_SECOND, log_mel(bursts(moments, 440.0), MEL), MEL)
        for moments in ((0.5, 1.25, 2.0, 3.25), (0.9, 1.65, 2.65, 3.6))
    ]
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0] > scores[1]


def test_a_direction_error_is_the_angle_turned_and_nan_without_a_direction():
    yaw, pitch = np.radians([[30.0, -170.0, 0.0], [10.0, -40.0, 0.0]])
    true, turned = direction_from_angles(yaw, pitch), direction_from_angles(yaw, pitch + np.radians(7))
    turned[2] = np.nan
    np.testing.assert_allclose(direction_error(true, true), 0, atol=1e-6)
    np.testing.assert_allclose(direction_error(turned, true), [7, 7, np.nan], rtol=1e-9)


def test_opposite_directions_are_180_degrees_apart():
    one = np.array([[0.0, 0.0, 2.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(direction_error(one, np.array([[0.0, 0.0, -1.0], [0.0, 5.0, 0.0]])), [180, 90])


def test_wrong_arguments_are_named():
    frames, mel = picture(()), np.zeros((400, 64), np.float32)
    for message, wrong in (
        ("at least two of height", lambda: flow_magnitude(frames[:1])),
        ("float32", lambda: flow_magnitude(frames.astype(np.float32))),
        ("at least two frames", lambda: mel_onsets(mel[:1], MEL)),
        ("all finite", lambda: mel_onsets(mel * np.nan, MEL)),
        ("0 frames per second", lambda: av_align(frames, 0, mel, MEL)),
        ("tolerance of 0", lambda: onset_agreement(np.zeros(1), np.zeros(1), 0.0)),
        ("twice", lambda: direction_error(np.ones((1, 3)), np.ones((2, 3)))),
        ("points nowhere", lambda: direction_error(np.ones((1, 3)), np.zeros((1, 3)))),
    ):
        with pytest.raises(MetricError, match=message):
            wrong()
