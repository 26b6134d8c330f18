"""Stage 1, standardise: how a file is read as a 2:1 panorama with mono sound, or why it cannot be.

Nothing is ever cropped except the second eye of a stereo video: panoramas squeezed to 16:9 are stretched back to 2:1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax import containers
from con360av_jax.config import Config
from con360av_jax.errors import MediaError
from con360av_jax.media import TAIL_TOLERANCE, MediaInfo, probe, read_frames, read_sound

Packing = Literal["mono", "top-bottom", "side-by-side"]
Stereo = Literal["auto", "mono", "top-bottom", "side-by-side"]

# Width over height of a stored panorama: 2:1 stored as 16:9 (1.78) up to 1920x852 (2.25), with room on both sides.
PANORAMA_ASPECT = (1.6, 2.35)
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
        stereo: how two eyes share the picture; "auto" judges by its aspect.

    Raises:
        MediaError: missing, corrupt, without picture or sound, not a panorama, or shorter than one segment.
    """
    info = probe(path)
    if not info.has_video:
        raise MediaError(f"{path}: has no picture stream; give a 360° video with picture and sound")
    if not info.has_sound:
        raise MediaError(f"{path}: has no sound stream; give a 360° video with picture and sound")
    if info.channels not in (1, 2, *AMBISONIC_CHANNELS):
        raise MediaError(
            f"{path}: has {info.channels} channels of sound; give mono, stereo or ambisonics (4, 9 or 16 channels)"
        )
    packing = packing_of(info, stereo)
    duration = _common_duration(path, info.duration)
    if duration < config.clip.seconds - LENGTH_TOLERANCE:
        raise MediaError(
            f"{path}: has {duration:.2f} s of picture and sound, shorter than a segment; "
            f"give at least {config.clip.seconds} s"
        )
    eye_height = info.height // 2 if packing == "top-bottom" else info.height
    height = min(panorama_height, eye_height) // 2 * 2
    return StandardClip(name=name, path=path, packing=packing, height=height, duration=duration, channels=info.channels)


def packing_of(info: MediaInfo, stereo: Stereo) -> Packing:
    """How the eyes share the picture; raises MediaError if neither one eye nor the picture has a panorama's aspect."""
    aspect = info.width / max(info.height, 1)
    low, high = PANORAMA_ASPECT
    if stereo == "auto":
        for packing, factor in PACKED_ASPECT.items():
            if low <= aspect / factor <= high:
                return packing
    # A packing that is asked for may also be squeezed into the picture of one panorama: 1920x1080, top-bottom.
    elif low <= aspect / PACKED_ASPECT[stereo] <= high or low <= aspect <= high:
        return stereo
    raise MediaError(
        f"{info.path}: is {info.width}x{info.height}, which is no 2:1 panorama (--stereo {stereo}); "
        "give an equirectangular video, 2:1 or stretched to 16:9"
    )


def read_panorama(
    clip: StandardClip, start: float, seconds: float, frames_per_second: float
) -> UInt8[np.ndarray, "frame height width 3"]:
    """Frames of the left eye as 2:1 panoramas, chosen by timestamps; raises MediaError if they cannot be decoded."""
    height, width = clip.height, 2 * clip.height
    sizes = {"mono": (height, width), "top-bottom": (2 * height, width), "side-by-side": (height, 2 * width)}
    frames = read_frames(clip.path, frames_per_second, start, seconds, sizes[clip.packing])
    return np.ascontiguousarray(frames[:, :height, :width])


def read_mono(clip: StandardClip, start: float, seconds: float, sample_rate: int) -> Float32[np.ndarray, " sample"]:
    """Sound at `sample_rate`: channel W of ambisonics, the mean of left and right of stereo."""
    sound = read_sound(clip.path, sample_rate, start, seconds)
    if clip.channels == 2:
        return sound.mean(axis=1, dtype=np.float32)
    return np.ascontiguousarray(sound[:, 0])


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
        for packet in container.demux(streams):
            if packet.is_corrupt:
                raise MediaError(f"{path}: is damaged or cut off; give a complete file")
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - zero
                ends[packet.stream.index] = max(ends[packet.stream.index], end)
    for end, wanted in zip(ends.values(), promised, strict=True):
        if end < wanted - TAIL_TOLERANCE:
            raise MediaError(
                f"{path}: is cut off or damaged: it stops at {end:.2f} s of {wanted:.2f} s; give a complete file"
            )
    return min(ends.values())
