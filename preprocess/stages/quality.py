"""Quality limits of a segment's audio and video, and the checks of decoded audio against them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from con360av_jax.config.settings import require
from con360av_jax.errors import MediaError

# The largest value of 16-bit audio is 0.99997; lossy codecs decode a clipped sample to within this of full scale.
FULL_SCALE = 0.999


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Quality limits; a segment beyond one of them is rejected."""

    silence: float = -80.0
    """Mean power of the mono audio below which it counts as silent, dBFS. 16-bit rounding noise lies near -98, quiet
    but real recordings near -44; template captions also say "no sound" below -80."""
    clipped: float = 0.01
    """Largest share of stored samples at full scale, 0 to 1. Wind gusts that touch 0 dBFS now and then have 0.0007 and
    stay usable; at 0.01 whole wave crests are flat, and a model would learn distortion."""
    picture_gap: float = 0.5
    """Longest duration of one frame, s: four frames at 8 frames/s."""

    def __post_init__(self):
        require(self.silence < 0, f"the limit of silence is {self.silence} dBFS; give a negative number")
        require(0 <= self.clipped <= 1, f"the limit of clipping is {self.clipped}; give a share of samples, 0 to 1")
        require(self.picture_gap > 0, f"the longest gap between frames is {self.picture_gap} s; give more than 0")


def check_stored(path: Path, start: float, stored: Float32[np.ndarray, "sample channel"], limits: Limits) -> None:
    """Checks samples as they are stored, before resampling hides clipping.

    Args:
        path: file, for the message.
        start: start of the segment, s, for the message.
        stored: the channels that are used, in [-1, 1].
        limits: quality limits.

    Raises:
        MediaError: samples are NaN or infinite, or too many are at full scale.
    """
    bad = int((~np.isfinite(stored)).sum())
    if bad:
        raise MediaError(
            f"{path}: {bad} samples of the audio from {start:g} s on are NaN or infinite; decode or record it again"
        )
    share = float((np.abs(stored) >= FULL_SCALE).mean())
    if share > limits.clipped:
        raise MediaError(
            f"{path}: the audio from {start:g} s on is clipped: {share:.1%} of it is at full scale, more than "
            f"{limits.clipped:.1%}; give a recording at a lower level"
        )


def check_heard(path: Path, start: float, mono: Float32[np.ndarray, " sample"], limits: Limits) -> None:
    """Raises MediaError if the mono audio is silent, as is stereo whose channels cancel out."""
    power = float(np.mean(np.square(mono, dtype=np.float64)))
    if power < 10 ** (limits.silence / 10):
        level = "digital silence" if power == 0 else f"{10 * np.log10(power):.0f} dBFS"
        raise MediaError(
            f"{path}: the audio from {start:g} s on is silent ({level}, the limit is {limits.silence:g} dBFS); "
            "give a video with audible sound"
        )
