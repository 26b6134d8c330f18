"""Stage 2, segment: windows of equal length over a clip, decoded one at a time so that memory does not grow."""

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
    """Which part of a clip a segment is."""

    clip: StandardClip
    index: int
    start: float
    """Where it begins in the clip, s."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One decoded window."""

    window: Window
    frames: UInt8[np.ndarray, "frame height width 3"]
    """2:1 panoramas, RGB."""
    sound: Float32[np.ndarray, " sample"]
    """Mono, in [-1, 1]."""

    @property
    def name(self) -> str:
        """Clip and window, unique in a dataset."""
        return f"{self.window.clip.name}_{self.window.index}"


def windows(clip: StandardClip, settings: ClipConfig) -> tuple[Window, ...]:
    """Every window that fits: [0, 4) [3, 7) [6, 10) of a clip of 10 s at the base settings."""
    last = clip.duration + LENGTH_TOLERANCE - settings.seconds
    starts: Iterator[int] = takewhile(lambda start: start <= last, count(0, settings.hop_seconds))
    return tuple(Window(clip=clip, index=index, start=float(start)) for index, start in enumerate(starts))


def cut(window: Window, config: Config, limits: Limits = DEFAULT_LIMITS) -> Segment:
    """Decodes one window.

    Raises:
        MediaError: its picture or sound is damaged or cut off, or worth less than `limits`.
    """
    seconds = config.clip.seconds
    frames = read_panorama(
        window.clip, window.start, seconds, config.clip.frames_per_second, longest_gap=limits.picture_gap
    )
    sound = read_mono(window.clip, window.start, seconds, config.mel.sample_rate, limits)
    return Segment(window=window, frames=frames, sound=sound)
