"""Stage "segment": windows of equal length over a clip, decoded one at a time so that memory does not grow."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, takewhile

import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax.config.settings import ClipConfig, Config
from preprocess.stages.quality import Limits
from preprocess.stages.standardise import LENGTH_TOLERANCE, StandardClip, read_mono, read_panorama

DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Window:
    """The part of a clip that becomes one segment."""

    clip: StandardClip
    index: int
    start: float
    """Start in the clip, s."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One decoded window."""

    window: Window
    frames: UInt8[np.ndarray, "frame height width 3"]
    """2:1 panoramas, RGB."""
    audio: Float32[np.ndarray, " sample"]
    """Mono, in [-1, 1]."""

    @property
    def name(self) -> str:
        """Name of clip and window, unique in a dataset."""
        return f"{self.window.clip.name}_{self.window.index}"


def windows(clip: StandardClip, settings: ClipConfig) -> tuple[Window, ...]:
    """All windows that fit into a clip: [0, 4) [3, 7) [6, 10) s for a clip of 10 s at the base settings."""
    last = clip.duration + LENGTH_TOLERANCE - settings.seconds
    starts: Iterator[int] = takewhile(lambda start: start <= last, count(0, settings.hop_seconds))
    return tuple(Window(clip=clip, index=index, start=float(start)) for index, start in enumerate(starts))


def cut(window: Window, config: Config, limits: Limits = DEFAULT_LIMITS) -> Segment:
    """Decodes and checks one window.

    Raises:
        MediaError: its video or audio is corrupt, cut off or beyond `limits`.
    """
    seconds = config.clip.seconds
    frames = read_panorama(
        window.clip, window.start, seconds, config.clip.frames_per_second, longest_gap=limits.picture_gap
    )
    audio = read_mono(window.clip, window.start, seconds, config.mel.sample_rate, limits)
    return Segment(window=window, frames=frames, audio=audio)
