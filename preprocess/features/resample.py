"""Resampling as in fadtk: band-limited interpolation with a Kaiser-windowed sinc.

With f the rate of the audio, g that of the result, c = min(f, g) * roll-off the cut-off, and w half the width:
(1) kernel   h(t) = c / f * sinc(c t) * kaiser(c t),  sinc(x) = sin(pi x) / (pi x)
(2) window   kaiser(x) = I0(beta sqrt(1 - (x / w)^2)) / I0(beta) for |x| < w, else 0
(3) result   y[n] = sum_k x[k] h(n / g - k / f),  ceil(length g / f) samples; the audio is 0 before and after

Source: torchaudio's sinc_interp_kaiser with the numbers that fadtk gives it.
"""

import math

import numpy as np
from jaxtyping import Float32
from scipy.signal import upfirdn

WIDTH = 64
"""w of equation (2): zero crossings on each side."""
ROLL_OFF = 0.9475937167399596
BETA = 14.769656459379492


def resample_kaiser(
    audio: Float32[np.ndarray, "sample"], sample_rate: int, wanted_rate: int
) -> Float32[np.ndarray, "sample"]:
    """`audio` at another rate, equation (3), computed in float64; unchanged if the rates are equal."""
    if sample_rate == wanted_rate:
        return audio
    common = math.gcd(sample_rate, wanted_rate)
    up, down = wanted_rate // common, sample_rate // common
    # On the common grid of both rates, n / g - k / f is (n down - k up) / grid.
    grid, cut_off = sample_rate * up, min(sample_rate, wanted_rate) * ROLL_OFF
    reach = math.ceil(WIDTH * grid / cut_off)
    # A first tap at a multiple of `down`, so that result n lies at a whole step of the filtered sound.
    reach = math.ceil(reach / down) * down
    phase = np.arange(-reach, reach + 1) * (cut_off / grid)
    inside = np.clip(1 - (phase / WIDTH) ** 2, 0, None)
    window = np.where(np.abs(phase) < WIDTH, np.i0(BETA * np.sqrt(inside)) / np.i0(BETA), 0)
    taps = cut_off / sample_rate * np.sinc(phase) * window
    count = math.ceil(len(audio) * up / down)
    filtered = upfirdn(taps, audio.astype(np.float64), up, down)
    return filtered[reach // down : reach // down + count].astype(np.float32)
