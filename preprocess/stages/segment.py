"""Stage "segment": windows of equal length over a clip, decoded one at a time so that memory does not grow."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile
from typing import TypeAlias

import av
import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax.config.settings import ClipConfig, Config
from con360av_jax.media.frame_reader import FrameReader
from preprocess.stages.quality import Limits
from preprocess.stages.standardise import LENGTH_TOLERANCE, StandardClip, panorama, read_mono

DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Window:
    """The part of a clip that becomes one segment."""

    clip: StandardClip
    index: int
    start: float
    """Start in the clip, s."""


Source: TypeAlias = av.VideoFrame | UInt8[np.ndarray, "height width 3"]
"""A decoded frame that has no more rows than views need, or else a panorama of as many rows as they need."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One decoded window."""

    window: Window
    frames: UInt8[np.ndarray, "frame height width 3"]
    """2:1 panoramas for saliency and captions, RGB."""
    audio: Float32[np.ndarray, " sample"]
    """Mono, in [-1, 1]."""
    sources: tuple[Source, ...] = ()
    """Sources of the panoramas for views; none if `frames` are as fine, or in a process that did not decode them."""

    @property
    def name(self) -> str:
        """Name of clip and window, unique in a dataset."""
        return f"{self.window.clip.name}_{self.window.index}"

    def __getstate__(self) -> dict[str, object]:
        # Decoded frames can't be pickled; another process decodes them again.
        return {**self.__dict__, "sources": ()}

    def view_panoramas(self, config: Config) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """Yields panoramas of the clip's `view_height`, one at a time.

        Raises MediaError if they have to be decoded again and cannot be.
        """
        clip, start = self.window.clip, self.window.start
        if not _finer(clip):
            yield from self.frames
            return
        with FrameReader(clip.path, config.clip.frames_per_second, partial(_source, clip)) as reader:
            for source in self.sources or reader.excerpt(start, config.clip.seconds):
                yield source if isinstance(source, np.ndarray) else panorama(clip, source, clip.view_height)


def windows(clip: StandardClip, settings: ClipConfig) -> tuple[Window, ...]:
    """All windows that fit into a clip: [0, 4) [3, 7) [6, 10) s for a clip of 10 s at the base settings."""
    last = clip.duration + LENGTH_TOLERANCE - settings.seconds
    starts: Iterator[int] = takewhile(lambda start: start <= last, count(0, settings.hop_seconds))
    return tuple(Window(clip=clip, index=index, start=float(start)) for index, start in enumerate(starts))


class Cutter:
    """Decodes and checks windows; those of one clip in order are decoded in one pass."""

    def __init__(self, config: Config, limits: Limits = DEFAULT_LIMITS):
        self.config, self.limits = config, limits
        self._clip: StandardClip | None = None
        self._reader: FrameReader[tuple[np.ndarray, Source | None]] | None = None

    def __enter__(self) -> "Cutter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the clip that was read last."""
        if self._reader is not None:
            self._reader.close()
        self._clip = self._reader = None

    def __call__(self, window: Window) -> Segment:
        """Decodes and checks one window.

        Raises:
            MediaError: its video or audio is corrupt, cut off or beyond the limits.
        """
        clip, settings = window.clip, self.config.clip
        if self._reader is None or clip != self._clip:
            self.close()
            self._clip = clip
            self._reader = FrameReader(
                clip.path, settings.frames_per_second, partial(_pictures, clip), self.limits.picture_gap
            )
        # A PyAV frame whose side data were read refers to itself: without this, memory grows with the clip's length.
        gc.collect()
        read = self._reader.excerpt(window.start, settings.seconds, keep_from=window.start + settings.hop_seconds)
        small, sources = zip(*read, strict=True)
        return Segment(
            window=window,
            frames=np.stack(small),
            audio=read_mono(clip, window.start, settings.seconds, self.config.mel.sample_rate, self.limits),
            sources=sources if _finer(clip) else (),
        )


def cut(window: Window, config: Config, limits: Limits = DEFAULT_LIMITS) -> Segment:
    """Decodes and checks one window alone; arguments and errors are those of `Cutter`."""
    with Cutter(config, limits) as cutter:
        return cutter(window)


def _finer(clip: StandardClip) -> bool:
    """Whether views need finer panoramas than saliency and captions."""
    return clip.view_height > clip.height


def _pictures(
    clip: StandardClip, frame: av.VideoFrame, shown: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "height width 3"], Source | None]:
    """The small panorama of a frame, and its source of finer ones if they are needed."""
    return panorama(clip, frame, clip.height), _source(clip, frame, shown) if _finer(clip) else None


def _source(clip: StandardClip, frame: av.VideoFrame, shown: tuple[int, int]) -> Source:
    rows = shown[0] // 2 if clip.packing == "top-bottom" else shown[0]
    # A larger frame would take more memory than what views need of it.
    return frame if rows // 2 * 2 <= clip.view_height else panorama(clip, frame, clip.view_height)
