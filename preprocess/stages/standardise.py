"""Stage 1, standardise: how a file is read as a 2:1 panorama with mono sound, or why it cannot be.

Nothing is ever cropped except the second eye of a stereo video: panoramas squeezed to 16:9 are stretched back to 2:1.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax.config.settings import Config
from con360av_jax.errors import MediaError
from con360av_jax.media import containers
from con360av_jax.media.files import TAIL_TOLERANCE, MediaInfo, probe, read_excerpt, read_frames
from preprocess.stages.quality import Limits, check_heard, check_stored

Packing = Literal["mono", "top-bottom", "side-by-side"]
Stereo = Literal["auto", "mono", "top-bottom", "side-by-side"]

# Width over height of a stored panorama: 2:1 stored as 16:9 (1.78) up to 1920x852 (2.25), with room on both sides.
PANORAMA_ASPECT = (1.6, 2.35)
# From here on a picture has the shape of one eye, not squeezed. A file that says nothing of its projection but has two
# eyes by H.264's own message is not believed then: the message survives when somebody crops one eye and encodes again.
PLAIN_ASPECT = 1.9
# Whole picture's aspect over one eye's.
PACKED_ASPECT: dict[Packing, float] = {"mono": 1.0, "top-bottom": 0.5, "side-by-side": 2.0}
# Ambisonics of order 0, 1, 2 and 3 have a square number of channels, the first of which is W.
AMBISONIC_CHANNELS = (4, 9, 16)
# What container rounding may take from a clip's end, s.
LENGTH_TOLERANCE = 0.125


@dataclass(frozen=True, kw_only=True)
class StandardClip:
    """A file that has passed every check, and how to read it."""

    name: str
    path: Path
    packing: Packing
    height: int
    """Rows of the standard panorama; it has twice as many columns."""
    duration: float
    """Length for which there is both picture and sound, s."""
    channels: int


def standardise(
    path: Path, name: str, config: Config, panorama_height: int = 512, stereo: Stereo = "auto"
) -> StandardClip:
    """Checks the file at `path`: reads it to its end, but decodes nothing.

    Args:
        path: a 360° video.
        name: of the clip, unique in its dataset.
        config: its segments must fit into the video.
        panorama_height: rows that frames are reduced to; smaller videos keep their own.
        stereo: how two eyes share the picture; "auto" believes the file's metadata, or else judges by its aspect.

    Raises:
        MediaError: missing, corrupt, without picture or sound, not a panorama, or shorter than one segment.
    """
    info = probe(path)
    packing = check_streams(info, stereo)
    duration = _common_duration(path, info.duration)
    if duration < config.clip.seconds - LENGTH_TOLERANCE:
        raise MediaError(
            f"{path}: has {duration:.2f} s of picture and sound, shorter than a segment; "
            f"give at least {config.clip.seconds} s"
        )
    eye_height = info.height // 2 if packing == "top-bottom" else info.height
    height = min(panorama_height, eye_height) // 2 * 2
    return StandardClip(name=name, path=path, packing=packing, height=height, duration=duration, channels=info.channels)


def check_streams(info: MediaInfo, stereo: Stereo) -> Packing:
    """How the eyes share the picture of a file that has all that is needed.

    Raises:
        MediaError: without picture or sound, with an unusable number of channels, or no panorama.
    """
    if not info.has_video:
        raise MediaError(f"{info.path}: has no picture stream; give a 360° video with picture and sound")
    if not info.has_sound:
        raise MediaError(f"{info.path}: has no sound stream; give a 360° video with picture and sound")
    if info.channels not in (1, 2, *AMBISONIC_CHANNELS):
        raise MediaError(
            f"{info.path}: has {info.channels} channels of sound; give mono, stereo or ambisonics (4, 9 or 16 channels)"
        )
    return packing_of(info, stereo)


def packing_of(info: MediaInfo, stereo: Stereo) -> Packing:
    """How the eyes share the picture.

    With "auto", the file's metadata count as if the user had said the same, if they can be believed: where they
    contradict the aspect, as one eye in a square picture, the file is left out rather than guessed at.

    Raises:
        MediaError: neither one eye nor the picture has a panorama's aspect, or the metadata name another projection
            than an equirectangular one of the whole sphere, or eyes that alternate.
    """
    if info.projection not in ("", "equirectangular"):
        raise MediaError(
            f"{info.path}: its projection is {info.projection}, by its metadata; convert it to an equirectangular "
            "panorama of the whole sphere"
        )
    aspect = info.width / max(info.height, 1)
    believed = bool(info.projection) or aspect < PLAIN_ASPECT
    asked = info.stereo if stereo == "auto" and info.stereo and believed else stereo
    source = "by its metadata" if asked != stereo else f"--stereo {stereo}"
    low, high = PANORAMA_ASPECT
    for packing, factor in PACKED_ASPECT.items():
        packed = low <= aspect / factor <= high
        # A packing that is named may also be squeezed into the picture of one panorama: 1920x1080, top-bottom.
        if (asked == "auto" and packed) or (asked == packing and (packed or low <= aspect <= high)):
            return packing
    if asked not in ("auto", *PACKED_ASPECT):
        raise MediaError(
            f"{info.path}: its eyes are stored as {asked} ({source}), which cannot be separated; give one eye, "
            "top-bottom or side-by-side, or say --stereo"
        )
    meaning = f"{asked}, {source}" if asked != stereo else source
    raise MediaError(
        f"{info.path}: is {info.width}x{info.height}, which is no 2:1 panorama ({meaning}); "
        "give an equirectangular video, 2:1 or stretched to 16:9"
    )


def read_panorama(
    clip: StandardClip, start: float, seconds: float, frames_per_second: float, longest_gap: float = math.inf
) -> UInt8[np.ndarray, "frame height width 3"]:
    """Frames of the left eye as 2:1 panoramas, chosen by timestamps; times in s.

    Raises:
        MediaError: they cannot be decoded, or one picture stands longer than `longest_gap`.
    """
    height, width = clip.height, 2 * clip.height
    sizes = {"mono": (height, width), "top-bottom": (2 * height, width), "side-by-side": (height, 2 * width)}
    frames = read_frames(clip.path, frames_per_second, start, seconds, sizes[clip.packing], longest_gap)
    return np.ascontiguousarray(frames[:, :height, :width])


def read_mono(
    clip: StandardClip, start: float, seconds: float, sample_rate: int, limits: Limits
) -> Float32[np.ndarray, " sample"]:
    """Sound at `sample_rate` (Hz): channel W of ambisonics, the mean of left and right of stereo; times in s.

    Raises:
        MediaError: it cannot be decoded, or is NaN, clipped or silent by `limits`.
    """
    excerpt = read_excerpt(clip.path, sample_rate, start, seconds)
    used = slice(0, 2 if clip.channels == 2 else 1)
    check_stored(clip.path, start, excerpt.stored[:, used], limits)
    mono = excerpt.resampled()[:, used].mean(axis=1, dtype=np.float32)
    check_heard(clip.path, start, mono, limits)
    return mono


def _common_duration(path: Path, duration: float) -> float:
    """Time until the first of picture and sound ends, s, after all packets were read, though not decoded.

    A file that is cut off is found here, before any of it is used. Raises MediaError.
    """
    with containers.opened(path) as container:
        streams = [
            stream
            for stream in (containers.picture_stream(container), containers.sound_stream(container))
            if stream is not None
        ]
        promised = [containers.stream_end(container, stream) or duration for stream in streams]
        ends = dict.fromkeys((stream.index for stream in streams), 0.0)
        zero = containers.clock_start(container)
        counts = dict.fromkeys(ends, 0)
        for packet in container.demux(streams):
            if packet.is_corrupt:
                raise MediaError(f"{path}: is damaged or cut off; give a complete file")
            counts[packet.stream.index] += bool(packet.size)
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - zero
                ends[packet.stream.index] = max(ends[packet.stream.index], end)
        for stream in streams:
            if not counts[stream.index]:
                kind = "picture" if stream.type == "video" else "sound"
                raise MediaError(f"{path}: its {kind} stream is empty; give a complete file")
    for end, wanted in zip(ends.values(), promised, strict=True):
        if end < wanted - TAIL_TOLERANCE:
            raise MediaError(
                f"{path}: is cut off or damaged: it stops at {end:.2f} s of {wanted:.2f} s; give a complete file"
            )
    return min(ends.values())
