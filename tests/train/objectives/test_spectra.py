"""Spectra of waveforms, against SciPy's transform and the front end of the data."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from con360av_jax.config.settings import MelConfig
from con360av_jax.media import mel
from con360av_jax.train.objectives.spectra import (
    SMALLEST_POWER,
    Resolution,
    log_mel,
    magnitudes,
    resolutions,
    stft_distance,
)

RATE = 16_000
RANDOM = np.random.default_rng(0)


def waveforms(seed: int) -> np.ndarray:
    """Two rows: noise, and a decaying tone."""
    random, time = np.random.default_rng(seed), np.arange(4800) / RATE
    tone = 0.5 * np.sin(2 * np.pi * 440 * (1 + seed) * time) * np.exp(-5 * time)
    return np.stack([0.1 * random.standard_normal(4800), tone]).astype(np.float32)


def by_scipy(y: np.ndarray, resolution: Resolution) -> np.ndarray:
    """Equation (1) in float64: (batch, time, frequency)."""
    size, window, hop = resolution
    padded = np.pad(y.astype(np.float64), ((0, 0), (window // 2, window // 2)), mode="reflect")
    hann, transform = np.asarray(signal.get_window("hann", window)), cast(Any, signal.stft)
    _, _, spectrum = transform(
        padded, window=hann, nperseg=window, noverlap=window - hop, nfft=size, boundary=None, padded=False
    )
    found = np.abs(spectrum).transpose(0, 2, 1)[:, : y.shape[1] // hop] * hann.sum()
    return np.sqrt(np.maximum(found**2, SMALLEST_POWER))


def test_the_resolutions_have_windows_of_10_25_and_50_ms():
    assert resolutions(RATE) == (Resolution(256, 160, 32), Resolution(512, 400, 80), Resolution(1024, 800, 160))
    # At the paper's rate they are the paper's.
    assert [(found.window, found.hop) for found in resolutions(24_000)] == [(240, 48), (600, 120), (1200, 240)]


@pytest.mark.parametrize("resolution", [*resolutions(RATE), Resolution(1024, 1024, 160)], ids=str)
def test_magnitudes_are_those_of_scipy(resolution: Resolution):
    y = waveforms(0)
    found = magnitudes(jnp.asarray(y), resolution)
    np.testing.assert_allclose(found, by_scipy(y, resolution), rtol=2e-4, atol=2e-4)


def test_the_distance_is_spectral_convergence_and_log_magnitude_over_three_resolutions():
    y, made = waveforms(0), waveforms(1)
    convergence, logarithms = [], []
    for resolution in resolutions(RATE):
        wanted, other = by_scipy(y, resolution), by_scipy(made, resolution)
        rows = [np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in zip(wanted, other, strict=True)]
        convergence.append(np.mean(rows))
        logarithms.append(np.abs(np.log(wanted) - np.log(other)).mean())
    found = stft_distance(jnp.asarray(y), jnp.asarray(made), RATE)
    np.testing.assert_allclose(found, [np.mean(convergence), np.mean(logarithms)], rtol=2e-3)


def test_the_log_mel_is_that_of_the_data():
    config, y = MelConfig(), waveforms(0)
    wanted = np.stack([mel.log_mel(row, config) for row in y])
    np.testing.assert_allclose(log_mel(jnp.asarray(y), config), wanted, atol=2e-3)


def test_silence_has_finite_distances_and_derivatives():
    config, silence = MelConfig(), jnp.zeros((1, 4800))

    def distance(made: jax.Array) -> jax.Array:
        return sum(stft_distance(silence, made, RATE), start=jnp.mean(jnp.abs(log_mel(made, config))))

    value, gradient = jax.value_and_grad(distance)(silence)
    assert np.isfinite(value) and np.isfinite(gradient).all()
