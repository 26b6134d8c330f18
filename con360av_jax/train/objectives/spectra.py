"""Distances of waveforms by their spectra, with derivatives; y is the original, y' the generated one.

(1) magnitudes      S[t, f] = |sum_n hann[n] pad(y)[t hop + n] exp(-2 pi i f n / size)|,  hann periodic; pad reflects
(2) convergence     C = ||S - S'||_F / ||S||_F
(3) log-magnitudes  M = mean |ln S - ln S'|,  S^2 at least 1e-7
(4) multi-resolution STFT   mean of C + M over three resolutions
(5) log-mel         mean |L - L'|,  L the log-mel of media/mel.py

(1) to (4): Yamamoto et al. 2020 (Parallel WaveGAN), equations 4 to 6, with its windows of 10, 25 and 50 ms and hops of
a fifth of them at any sample rate. (5): Kong et al. 2020 (HiFi-GAN), equation 4. All are means over rows.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from con360av_jax.config.settings import MelConfig
from con360av_jax.media.mel import filter_bank

HOP_SECONDS = (0.002, 0.005, 0.01)
HOPS_PER_WINDOW = 5
SMALLEST_POWER = 1e-7

Waveform = Float[Array, "batch sample"]


class Resolution(NamedTuple):
    """One short-time Fourier transform."""

    size: int
    """Length of the transform; frames are padded with zeros to it."""
    window: int
    """Length of the Hann window (audio samples)."""
    hop: int
    """Distance between frames (audio samples)."""


def resolutions(sample_rate: int) -> tuple[Resolution, ...]:
    """Returns the three resolutions of equation (4) at a sample rate (Hz)."""
    hops = [round(seconds * sample_rate) for seconds in HOP_SECONDS]
    windows = [HOPS_PER_WINDOW * hop for hop in hops]
    return tuple(
        Resolution(1 << (window - 1).bit_length(), window, hop) for window, hop in zip(windows, hops, strict=True)
    )


def magnitudes(
    y: Waveform, resolution: Resolution, smallest_power: float = SMALLEST_POWER
) -> Float[Array, "batch time frequency"]:
    """Equation (1): len(y) // hop frames, the first one centred on the first sample; S^2 at least `smallest_power`."""
    size, window, hop = resolution
    frames, shifts = y.shape[1] // hop, -(-window // hop)
    # Frames are put together from whole hops: the derivative of a gather is a slow scatter on CPUs.
    padded = jnp.pad(y, ((0, 0), (window // 2, window // 2)), mode="reflect")
    padded = jnp.pad(padded, ((0, 0), (0, max(0, (frames + shifts - 1) * hop - padded.shape[1]))))
    hops = rearrange(padded[:, : (frames + shifts - 1) * hop], "batch (time hop) -> batch time hop", hop=hop)
    framed = jnp.concatenate([hops[:, shift : shift + frames] for shift in range(shifts)], -1)[..., :window]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)
    spectrum = jnp.fft.rfft(framed * hann[None, None], size)
    power = jnp.square(jnp.real(spectrum)) + jnp.square(jnp.imag(spectrum))
    return jnp.sqrt(jnp.maximum(power, smallest_power))


def stft_distance(y: Waveform, made: Waveform, sample_rate: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the means of (2) and of (3) over the resolutions."""
    convergence, logarithms = [], []
    for resolution in resolutions(sample_rate):
        wanted, found = magnitudes(y, resolution), magnitudes(made, resolution)
        # Between equal spectra the derivative of a plain root is not finite.
        distance = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(wanted - found), (1, 2)), SMALLEST_POWER))
        convergence.append(jnp.mean(distance / jnp.sqrt(jnp.sum(jnp.square(wanted), (1, 2)))))
        logarithms.append(jnp.mean(jnp.abs(jnp.log(wanted) - jnp.log(found))))
    return jnp.mean(jnp.stack(convergence)), jnp.mean(jnp.stack(logarithms))


def log_mel(y: Waveform, config: MelConfig) -> Float[Array, "batch time mel"]:
    """Log-mel of media/mel.py (equations 1 to 3 there), with a derivative."""
    # Only so large that the derivative of the root is finite: bands lie above the floor long before.
    found = magnitudes(y, Resolution(config.window, config.window, config.hop), smallest_power=1e-14)
    return jnp.log(jnp.maximum(found @ filter_bank(config).astype(np.float32), config.floor))
