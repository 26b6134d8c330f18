"""Clips on disk: which there are, and their pictures and sound as stored, or why they cannot be used."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax.errors import MediaError
from con360av_jax.media import containers
from con360av_jax.media.files import read_excerpt
from con360av_jax.runtime.provenance import file_sha256
from preprocess.inputs import VIDEO_SUFFIXES
from preprocess.stages.quality import Limits, check_heard

SOUND_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3", ".m4a"})
BLACK = 16
"""A clip of which no picture has a brighter red, green or blue, of 255, is black."""
MOST_BYTES = 2**30
"""Of a clip's pictures, which are all in memory at once."""
RATE_TOLERANCE = 1e-3
"""Share by which a file's frame rate may differ from the wanted one."""
# What is done to what is read, for the cards.
PICTURE_SETTINGS: dict[str, object] = {
    "pictures": "as stored, RGB by FFmpeg",
    "black": f"no value above {BLACK} of 255: rejected",
}
SOUND_SETTINGS: dict[str, object] = {
    "channels": "one; two: their mean; four (ambisonics): the first, W",
    "silent": f"mean power below {Limits().silence:g} dBFS: rejected",
}

Pictures: TypeAlias = UInt8[np.ndarray, "frame height width 3"]
Sound: TypeAlias = Float32[np.ndarray, "sample"]
Line: TypeAlias = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file and the name of its clip."""

    path: Path
    clip: str
    file: str
    """As seen from the folder that was given."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What a file holds; what was not asked for, or is not usable, is empty."""

    name: str
    pictures: Pictures
    sound: Sound
    sample_rate: int
    """Of the sound as it is stored, Hz."""
    no_pictures: str = ""
    """Why there are no pictures, where they were asked for."""
    no_sound: str = ""


def find_clips(place: Path) -> tuple[tuple[Source, ...], tuple[Line, ...]]:
    """The media files of a folder, searched through, or one file, in the order of their clips' names; and the rejected.

    A clip is called as its file, without suffix. Files of one name are all rejected: which is the clip is not known.

    Raises MediaError if there is no such place or no media file in it.
    """
    if not place.is_dir():
        if not place.is_file():
            raise MediaError(f"{place}: no such file or folder; check --videos")
        return (Source(path=place, clip=place.stem, file=place.name),), ()
    suffixes = VIDEO_SUFFIXES | SOUND_SUFFIXES
    named: dict[str, list[Source]] = defaultdict(list)
    nameless: list[Line] = []
    for path in sorted(place.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or path.is_dir():
            continue
        file = path.relative_to(place).as_posix()
        shown = os.fsencode(file).decode("utf-8", "backslashreplace")
        if shown != file:
            nameless.append({"clip": shown, "file": shown, "reason": "its name is not UTF-8: rename it"})
        else:
            named[path.stem].append(Source(path=path, clip=path.stem, file=file))
    if not named and not nameless:
        raise MediaError(f"{place}: has no file with one of the endings {' '.join(sorted(suffixes))}; check --videos")
    single = [sources[0] for _, sources in sorted(named.items()) if len(sources) == 1]
    twice = [sources for _, sources in sorted(named.items()) if len(sources) > 1]
    several: list[Line] = [
        {"clip": source.clip, "file": source.file, "reason": _several(source, sources)}
        for sources in twice
        for source in sources
    ]
    return tuple(single), (*nameless, *several)


def _several(source: Source, sources: Sequence[Source]) -> str:
    others = ", ".join(other.file for other in sources if other is not source)
    return f"{others} has the same name: give every clip its own"


def digest(path: Path) -> str:
    """SHA-256 of a file; "" if it cannot be read, which whoever reads its pictures says."""
    try:
        return file_sha256(path)
    except OSError:
        return ""


def read_clip(source: Source, pictures: bool, sound: bool, frames_per_second: float) -> Clip:
    """What is asked for of a file; what is wrong with it is said in the clip, never raised.

    Args:
        frames_per_second: that the pictures must have; 0: any.
    """
    seen, no_pictures = np.zeros((0, 0, 0, 3), np.uint8), ""
    heard, sample_rate, no_sound = np.zeros(0, np.float32), 0, ""
    if pictures:
        try:
            seen = _read_pictures(source.path, frames_per_second)
        except MediaError as error:
            no_pictures = _reason(error, source.path)
    if sound:
        try:
            heard, sample_rate = _read_sound(source.path)
        except MediaError as error:
            no_sound = _reason(error, source.path)
    return Clip(
        name=source.clip,
        pictures=seen,
        sound=heard,
        sample_rate=sample_rate,
        no_pictures=no_pictures,
        no_sound=no_sound,
    )


def _reason(error: MediaError, path: Path) -> str:
    """The same wherever the file lies."""
    return " ".join(str(error).removeprefix(f"{path}: ").split())


def _read_pictures(path: Path, frames_per_second: float) -> Pictures:
    with containers.opened(path) as container:
        stream = containers.picture_stream(container)
        if stream is None:
            raise MediaError(f"{path}: has no pictures; give a video")
        if getattr(stream, "codec_context", None) is None:  # PyAV's stub does not say that it may lack one
            raise MediaError(f"{path}: its pictures are in an unknown codec; {containers.PLAYABLE}")
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        if frames_per_second and abs(rate - frames_per_second) > RATE_TOLERANCE * frames_per_second:
            raise MediaError(
                f"{path}: has {rate:g} pictures per second, the protocol wants {frames_per_second:g}: make it anew at "
                "that rate"
            )
        height, width = stream.codec_context.height, stream.codec_context.width
        most, times, frames = max(1, MOST_BYTES // (3 * max(1, height * width))), [], []
        for time, frame in containers.pictures(container, stream, 0.0):
            if max(len(frames) + 1, stream.frames) > most:
                raise MediaError(
                    f"{path}: has more than {most} pictures of {width}x{height}, {MOST_BYTES // 2**20} MiB: cut it "
                    "into shorter clips"
                )
            times.append(time)
            frames.append(containers.rgb(frame, path, height, width))
        if not frames:
            raise MediaError(f"{path}: no picture could be decoded; the file is damaged or cut off")
        end = containers.stream_end(container, stream)
    interval = 1 / rate if rate else 0.0
    if end is not None and times[-1] + 2 * interval < end:
        raise MediaError(
            f"{path}: is cut off: no pictures after {times[-1]:.2f} s of {end:.2f} s; give a complete file"
        )
    if frames_per_second:
        _check_even(path, np.array(times), frames_per_second)
    pictures = np.stack(frames)
    if pictures.max() <= BLACK:
        raise MediaError(f"{path}: all of its {len(pictures)} pictures are black; give a video of something")
    return pictures


def _check_even(path: Path, times: np.ndarray, frames_per_second: float) -> None:
    late = np.abs(times - times[0] - np.arange(len(times)) / frames_per_second)
    if late.max() > 0.5 / frames_per_second:
        raise MediaError(
            f"{path}: its pictures do not come evenly, {frames_per_second:g} per second: that of "
            f"{times[late.argmax()]:.2f} s is {late.max():.2f} s off its place; make it anew at a constant rate"
        )


def _read_sound(path: Path) -> tuple[Sound, int]:
    """One channel at the file's own rate, from the first sample to the last, and that rate."""
    with containers.opened(path) as container:
        stream = containers.sound_stream(container)
        if stream is None:
            raise MediaError(f"{path}: has no sound; give a clip with sound")
        rate, end = stream.codec_context.sample_rate, containers.stream_end(container, stream)
    if not rate:
        raise MediaError(f"{path}: its sound states no sample rate; the file is damaged")
    # Not as long as the file, whose pictures may go on: silence would be added.
    channels = read_excerpt(path, rate, seconds=end).stored
    if not np.isfinite(channels).all():
        raise MediaError(f"{path}: its sound holds NaN or infinity; decode or record it anew")
    match channels.shape[1]:
        case 1 | 4:
            mono = channels[:, 0]
        case 2:
            mono = channels.mean(axis=1)
        case other:
            raise MediaError(f"{path}: its sound has {other} channels; give one, two, or four of ambisonics")
    check_heard(path, 0.0, mono, Limits())
    return np.ascontiguousarray(mono), rate
