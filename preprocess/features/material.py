"""Media files of an extraction: finding them, and reading their frames and audio as stored, or why that fails."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax.errors import MediaError
from con360av_jax.media import containers
from con360av_jax.media.files import read_excerpt
from con360av_jax.media.presentation import rgb, shown_size
from con360av_jax.runtime.files import readable
from con360av_jax.runtime.provenance import file_sha256
from preprocess.inputs import VIDEO_SUFFIXES

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3", ".m4a"})
MOST_BYTES = 2**30
"""Largest size of a clip's frames, which are all in memory at once, bytes."""
RATE_TOLERANCE = 1e-3
"""Relative tolerance of a file's frame rate."""
# Processing of what is read, as feature cards state it. "As stored" means at the stored size: features of files that a
# player turns or stretches are those of what it shows.
VIDEO_SETTINGS: dict[str, object] = {"pictures": "as stored, RGB by FFmpeg", "black": "kept"}
AUDIO_SETTINGS: dict[str, object] = {
    "channels": "one; two: their mean; four (ambisonics): the first, W",
    "silent": "kept",
}

Frames: TypeAlias = UInt8[np.ndarray, "frame height width 3"]
Audio: TypeAlias = Float32[np.ndarray, "sample"]
Line: TypeAlias = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A media file and the name of its clip."""

    path: Path
    clip: str
    file: str
    """Path relative to the folder that was searched."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Content of a file; a stream that is not wanted or not usable is empty."""

    name: str
    video: Frames
    audio: Audio
    sample_rate: int
    """Stored sample rate of the audio, Hz."""
    no_video: str = ""
    """Why the wanted video is not usable."""
    no_audio: str = ""
    """Why the wanted audio is not usable."""


def find_clips(place: Path) -> tuple[tuple[Source, ...], tuple[Line, ...]]:
    """Media files of a folder and those below it, or one file, in the order of their clips' names, and rejected files.

    A clip has its file's name without the suffix. Files that share a name are all rejected, because it is unknown which
    of them is the clip.

    Raises MediaError if `place` does not exist or holds no media file.
    """
    suffixes = VIDEO_SUFFIXES | AUDIO_SUFFIXES
    if place.is_dir():
        inside = (path for path in sorted(place.rglob("*")) if path.suffix.lower() in suffixes)
        files = [path for path in inside if not path.name.startswith(".") and not path.is_dir()]
    elif place.is_file():
        place, files = place.parent, [place]
    else:
        raise MediaError(f"{place}: no such file or folder; check --videos")
    named: dict[str, list[Source]] = defaultdict(list)
    rejected: list[Line] = []
    for path in files:
        file = path.relative_to(place).as_posix()
        shown = readable(file)
        if shown != file:
            rejected.append({"clip": shown, "file": shown, "reason": "its name is not UTF-8: rename it"})
        else:
            named[path.stem].append(Source(path=path, clip=path.stem, file=file))
    if not named and not rejected:
        raise MediaError(f"{place}: has no file with one of the endings {' '.join(sorted(suffixes))}; check --videos")
    single = [sources[0] for _, sources in sorted(named.items()) if len(sources) == 1]
    twice = [sources for _, sources in sorted(named.items()) if len(sources) > 1]
    for sources in twice:
        for source in sources:
            others = ", ".join(other.file for other in sources if other is not source)
            reason = f"{others} has the same name: give every clip its own"
            rejected.append({"clip": source.clip, "file": source.file, "reason": reason})
    return tuple(single), tuple(rejected)


def digest(path: Path) -> str:
    """SHA-256 of a file; "" if it cannot be read, for which `read_clip` then gives the reason."""
    try:
        return file_sha256(path)
    except OSError:
        return ""


def read_clip(source: Source, video: bool, audio: bool, frames_per_second: float) -> Clip:
    """The wanted streams of a file; whatever is wrong with them is stated in the clip, not raised.

    Args:
        source: file.
        video: whether frames are wanted.
        audio: whether audio is wanted.
        frames_per_second: frame rate that the video must have; 0 accepts any.
    """
    frames, no_video = np.zeros((0, 0, 0, 3), np.uint8), ""
    samples, sample_rate, no_audio = np.zeros(0, np.float32), 0, ""
    if video:
        try:
            frames = _read_video(source.path, frames_per_second)
        except MediaError as error:
            no_video = _reason(error, source.path)
    if audio:
        try:
            samples, sample_rate = _read_audio(source.path)
        except MediaError as error:
            no_audio = _reason(error, source.path)
    return Clip(
        name=source.clip, video=frames, audio=samples, sample_rate=sample_rate, no_video=no_video, no_audio=no_audio
    )


def _reason(error: MediaError, path: Path) -> str:
    """An error's text without the file's path, so that it does not depend on the file's location."""
    return " ".join(str(error).removeprefix(f"{path}: ").split())


def _read_video(path: Path, frames_per_second: float) -> Frames:
    with containers.opened(path) as container:
        stream = containers.video_stream(container)
        if stream is None:
            raise MediaError(f"{path}: has no video stream; give a video")
        if getattr(stream, "codec_context", None) is None:  # PyAV's stub does not say that it may lack one
            raise MediaError(f"{path}: its video is in an unknown codec; {containers.PLAYABLE}")
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        if frames_per_second and abs(rate - frames_per_second) > RATE_TOLERANCE * frames_per_second:
            raise MediaError(
                f"{path}: has {rate:g} frames per second, the protocol wants {frames_per_second:g}: make it again at "
                "that rate"
            )
        most, times, frames, height, width = 0, [], [], 0, 0
        for time, frame in containers.video_frames(container, stream, 0.0):
            if not frames:
                height, width = shown_size(stream, frame, path)
                most = max(1, MOST_BYTES // (3 * height * width))
            if max(len(frames) + 1, stream.frames) > most:
                raise MediaError(
                    f"{path}: has more than {most} frames of {width}x{height}, {MOST_BYTES // 2**20} MiB: cut it "
                    "into shorter clips"
                )
            times.append(time)
            frames.append(rgb(frame, path, height, width))
        if not frames:
            raise MediaError(f"{path}: no frame could be decoded; the file is corrupt or cut off")
        end = containers.stream_end(container, stream)
    interval = 1 / rate if rate else 0.0
    if end is not None and times[-1] + 2 * interval < end:
        raise MediaError(f"{path}: is cut off: no frames after {times[-1]:.2f} s of {end:.2f} s; give a complete file")
    if frames_per_second:
        _check_even(path, np.array(times), frames_per_second)
    return np.stack(frames)


def _check_even(path: Path, times: np.ndarray, frames_per_second: float) -> None:
    late = np.abs(times - times[0] - np.arange(len(times)) / frames_per_second)
    if late.max() > 0.5 / frames_per_second:
        raise MediaError(
            f"{path}: its frames are not spaced evenly at {frames_per_second:g} per second: that of "
            f"{times[late.argmax()]:.2f} s is {late.max():.2f} s off; make it again at a constant rate"
        )


def _read_audio(path: Path) -> tuple[Audio, int]:
    """One channel at the file's own sample rate, from the first sample to the last, and that rate."""
    with containers.opened(path) as container:
        stream = containers.audio_stream(container)
        if stream is None:
            raise MediaError(f"{path}: has no audio stream; give a clip with audio")
        rate, end = stream.codec_context.sample_rate, containers.stream_end(container, stream)
    if not rate:
        raise MediaError(f"{path}: its audio states no sample rate; the file is corrupt")
    # Not the file's length: where the video is longer than the audio, silence would be added.
    channels = read_excerpt(path, rate, seconds=end).stored
    if not np.isfinite(channels).all():
        raise MediaError(f"{path}: its audio holds NaN or infinity; decode or record it again")
    match channels.shape[1]:
        case 1 | 4:
            mono = channels[:, 0]
        case 2:
            mono = channels.mean(axis=1)
        case other:
            raise MediaError(f"{path}: its audio has {other} channels; give one, two, or four of ambisonics")
    return np.ascontiguousarray(mono), rate
