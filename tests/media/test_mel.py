"""The mel front end equals two independent libraries' and has the stated length."""

import warnings

import numpy as np
import pytest

from con360av_jax.config.settings import MelConfig
from con360av_jax.errors import MediaError
from con360av_jax.media.mel import filter_bank, log_mel

MEL = MelConfig()


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """One second of a rising tone over noise, with a silent stretch that reaches the floor."""
    time = np.arange(16_000) / 16_000
    tone = 0.4 * np.sin(2 * np.pi * (200 + 1500 * time) * time)
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(time))
    silence = (time < 0.4) | (time > 0.6)
    return ((tone + noise) * silence).astype(np.float32)


def test_equals_librosa(sound: np.ndarray):
    librosa = pytest.importorskip("librosa")
    mel = librosa.feature.melspectrogram(
        y=sound, sr=16_000, n_fft=1024, win_length=1024, hop_length=160, window="hann", center=True,
        pad_mode="reflect", power=1.0, n_mels=64, fmin=0, fmax=8_000, htk=False, norm="slaney",
    )  # fmt: skip
    wanted = np.log(np.maximum(mel, 1e-5)).T[:100]
    np.testing.assert_allclose(log_mel(sound, MEL), wanted, atol=1e-4)


def test_equals_the_feature_extractor_the_baseline_uses(sound: np.ndarray):
    pytest.importorskip("torch", reason="transformers gives this feature extractor only beside torch")
    from transformers import SpeechT5FeatureExtractor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library warns about its own defaults
        extractor = SpeechT5FeatureExtractor(
            num_mel_bins=64, hop_length=10, win_length=64, fmin=0, fmax=8_000, mel_floor=1e-10, sampling_rate=16_000
        )
        log10 = extractor(audio_target=sound, sampling_rate=16_000)["input_values"][0]
    wanted = np.log(np.clip(10.0 ** np.asarray(log10, np.float64), 1e-5, None))[:100]
    np.testing.assert_allclose(log_mel(sound, MEL), wanted, atol=1e-4)


@pytest.mark.parametrize("samples", [160, 1_000, 16_000, 16_159, 64_000])
def test_has_one_frame_per_whole_hop(samples: int):
    mel = log_mel(np.full(samples, 0.1, np.float32), MEL)
    assert mel.shape == (samples // 160, 64)
    assert mel.dtype == np.float32


def test_silence_is_the_logarithm_of_the_floor():
    np.testing.assert_allclose(log_mel(np.zeros(1_600, np.float32), MEL), np.log(1e-5), rtol=1e-6)


def test_doubling_the_sound_adds_ln_two_because_mels_are_of_magnitude():
    noise = np.random.default_rng(1).standard_normal(8_000).astype(np.float32) * 0.1
    np.testing.assert_allclose(log_mel(2 * noise, MEL) - log_mel(noise, MEL), np.log(2), atol=1e-5)


def test_a_tone_lights_the_band_that_holds_its_frequency():
    time = np.arange(16_000) / 16_000
    for hertz in (500.0, 1_000.0, 4_000.0):
        loudest = log_mel(np.sin(2 * np.pi * hertz * time).astype(np.float32), MEL)[50].argmax()
        assert abs(filter_bank(MEL)[:, loudest].argmax() * 16_000 / 1024 - hertz) < 0.05 * hertz


@pytest.mark.parametrize("shape", [(16_000, 2), (159,), (0,)])
def test_refuses_sound_without_mel_frames(shape: tuple[int, ...]):
    with pytest.raises(MediaError, match="no mel frames"):
        log_mel(np.zeros(shape, np.float32), MEL)
