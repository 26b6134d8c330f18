"""Reads the frames of one file at a fixed rate for several excerpts, decoding what they share once."""

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import av
from av.container import InputContainer

from con360av_jax.errors import MediaError
from con360av_jax.media import containers
from con360av_jax.media.presentation import shown_size

TAIL_TOLERANCE = 0.5
"""A stream may end this much before the end stated in its header, s; a larger gap means that data are missing."""
# Up to this far ahead frames are decoded on the way to an excerpt, s; beyond, the file is opened at its start.
_STRIDE = 4.0
# An excerpt within this of a whole number of frames from another one shares its frames.
_ON_GRID = 1e-6

Picture = TypeVar("Picture")


class FrameReader(Generic[Picture]):
    """Frames at times `start + k / frames_per_second` of excerpts: each is the file's most recent frame, as `picture`.

    Times are in seconds on the file's clock. Excerpts that follow each other at a distance of whole frames are read in
    one pass; any others open the file anew and give the same frames.
    """

    def __init__(
        self,
        path: str | Path,
        frames_per_second: float,
        picture: Callable[[av.VideoFrame, tuple[int, int]], Picture],
        longest_gap: float = math.inf,
    ):
        """Nothing is opened before the first excerpt.

        Args:
            path: a media file with video.
            frames_per_second: rate of the excerpts, independent of the file's own.
            picture: makes an entry of an excerpt from a decoded frame and the shown size (height, width) of frames.
            longest_gap: longest time within an excerpt without a new frame, s.

        Raises:
            MediaError: the rate is not positive.
        """
        if frames_per_second <= 0:
            raise MediaError(f"frames_per_second is {frames_per_second}; give a positive rate")
        self.path, self.rate = path, frames_per_second
        self._picture, self._longest_gap = picture, longest_gap
        self._stack, self._pass, self._kept = ExitStack(), None, {}

    _pass: "_Pass | None"
    _kept: dict[int, Picture]
    """Pictures of the pass that the next excerpt may need, by their number."""

    def __enter__(self) -> "FrameReader[Picture]":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; the next excerpt opens it anew."""
        self._pass, self._kept = None, {}
        self._stack.close()

    def length(self, start: float, seconds: float | None) -> float:
        """Opens the file for an excerpt and returns its length, s: `seconds`, or up to the end if that is None.

        Raises MediaError if the file cannot be opened, or if the excerpt is empty or starts outside it.
        """
        with self._guarded():
            reading = self._at(start)
            return containers.checked_length(self.path, reading.available, start, seconds)

    def count(self, seconds: float) -> int:
        """Number of frames of an excerpt of `seconds`."""
        return max(1, round(seconds * self.rate))

    def excerpt(self, start: float, seconds: float, keep_from: float = math.inf) -> Iterator[Picture]:
        """Yields the pictures of one excerpt; the first and last are repeated beyond the ends of the file.

        Args:
            start: time of the first frame, s.
            seconds: length, s.
            keep_from: start of the next excerpt, s: pictures from there on are kept for it.

        Raises:
            MediaError: the file cannot be opened, has no video, is corrupt or lacks data, or has a gap longer than
                `longest_gap`; the reader is then closed.
        """
        with self._guarded():
            yield from self._excerpt(start, seconds, keep_from)

    @contextmanager
    def _guarded(self) -> Generator[None]:
        """Turns errors of the file into MediaErrors, after which the next excerpt opens it anew."""
        try:
            with containers.guarded(self.path):
                yield
        except MediaError:
            self.close()
            raise

    def _at(self, start: float) -> "_Pass":
        """The pass over the file that an excerpt is read in."""
        if self._pass is None or not self._continues(self._pass, start):
            self.close()
            container = self._stack.enter_context(containers.opened(self.path))
            self._pass = _Pass(self.path, container, start, self.rate)
        return self._pass

    def _excerpt(self, start: float, seconds: float, keep_from: float) -> Iterator[Picture]:
        reading = self._at(start)
        first, kept = reading.number_at(start), self._kept
        self._kept, made = {}, None
        reading.forget(start)
        for number in range(first, first + self.count(seconds)):
            if number in kept:
                picture = kept[number]
            else:
                picture = made = self._made(reading, number, made)
            if reading.origin + number / self.rate >= keep_from - _ON_GRID:
                self._kept[number] = picture
            yield picture
        reading.check(start, start + seconds, self._longest_gap)

    def _made(self, reading: "_Pass", number: int, last: Picture | None) -> Picture:
        """The picture of one frame, which is the last one if the file has no new frame."""
        new = reading.advance(number)
        return self._picture(reading.held[1], reading.size) if new or last is None else last

    def _continues(self, reading: "_Pass", start: float) -> bool:
        """Whether the frames of an excerpt are kept or still to come."""
        ahead = (start - reading.origin) * self.rate
        known = min(self._kept, default=reading.number + 1)
        return abs(ahead - round(ahead)) < _ON_GRID and known <= round(ahead) < known + _STRIDE * self.rate


class _Pass:
    """One pass over the frames of a file from a time on; frame n of its grid is at `origin + n / rate`, s."""

    def __init__(self, path: str | Path, container: InputContainer, origin: float, rate: float):
        stream = containers.video_stream(container)
        # First, for it may have to read all packets and rewind.
        self.available = containers.duration(container)
        containers.checked_length(path, self.available, origin, None)
        if stream is None:
            raise MediaError(f"{path}: has no video stream, but video is needed; give a video file")
        self.path, self.origin, self.rate, self.number = path, origin, rate, -1
        self._frames = containers.video_frames(container, stream, origin)
        held, self._coming = next(self._frames, None), next(self._frames, None)
        if held is None:
            raise MediaError(f"{path}: no frame could be decoded at {origin:g} s; the file is corrupt or cut off")
        self.held = held
        self.size = shown_size(stream, held[1], path)
        self._end = containers.stream_end(container, stream)
        self._slack = max(TAIL_TOLERANCE, 2 / float(stream.average_rate or rate))
        self._half_tick = float(stream.time_base or 0) / 2 + 1 / containers.MICROSECONDS
        self._times = [entry[0] for entry in (held, self._coming) if entry is not None]

    def number_at(self, time: float) -> int:
        """Number of the frame at a time on the grid, s."""
        return round((time - self.origin) * self.rate)

    def advance(self, number: int) -> bool:
        """Decodes up to frame `number`, which is then `held`; returns whether it is another one than before."""
        before, self.number = self.held, number
        while self._coming is not None and self._first_of(self._coming[0]) <= number:
            self.held, self._coming = self._coming, next(self._frames, None)
            if self._coming is not None:
                self._times.append(self._coming[0])
        return self.held is not before

    def _first_of(self, time: float) -> int:
        """First frame of the grid for which a frame at `time` is the most recent one."""
        return math.ceil((time - self._half_tick - self.origin) * self.rate)

    def forget(self, start: float) -> None:
        """Forgets the times of frames before `start`, except the last one."""
        self._times = [time for time in self._times if time >= start] or self._times[-1:]

    def check(self, start: float, end: float, longest_gap: float) -> None:
        """Raises MediaError if frames are missing between `start` and `end`, s."""
        last = self.held[0]
        if self._coming is None and self._end is not None and last < min(self._end, end) - self._slack:
            raise MediaError(
                f"{self.path}: is cut off or corrupt: no video after {max(last, 0):.2f} s of {self._end:.2f} s; "
                "give a complete file"
            )
        until = end if self._coming is None else min(end, self._coming[0])
        times = [start, *(time for time in self._times if start < time < until), until]
        for before, after in zip(times[:-1], times[1:], strict=True):
            if after - before > longest_gap:
                raise MediaError(
                    f"{self.path}: has no new frame from {before:.2f} s to {after:.2f} s, a gap of more than "
                    f"{longest_gap:g} s; give a video without missing frames"
                )
