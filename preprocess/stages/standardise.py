"""Stage "standardise": checks that a recording can be read as 2:1 panoramas with mono audio, and reads parts of it.

Nothing is cropped except the second eye of a stereo video; panoramas squeezed to 16:9 are stretched back to 2:1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax.config.settings import Config
from con360av_jax.errors import MediaError
from con360av_jax.media import containers
from con360av_jax.media.files import MediaInfo, probe, read_excerpt
from con360av_jax.media.frame_reader import TAIL_TOLERANCE
from con360av_jax.media.presentation import rgb
from preprocess.choices import Stereo
from preprocess.stages.quality import Limits, check_heard, check_stored

Packing = Literal["mono", "top-bottom", "side-by-side"]

# Width over height of a stored panorama: 2:1 stored as 16:9 (1.78) up to 1920x852 (2.25), with room on both sides.
PANORAMA_ASPECT = (1.6, 2.35)
# From this aspect on, a frame is one eye that is not squeezed. A file without a projection in its metadata whose H.264
# stream announces two eyes is then taken as one eye: the announcement survives cropping to one eye and re-encoding.
PLAIN_ASPECT = 1.9
# Aspect of the stored frame divided by that of one eye.
PACKED_ASPECT: dict[Packing, float] = {"mono": 1.0, "top-bottom": 0.5, "side-by-side": 2.0}
# Parts of a projection's name, with the input of FFmpeg's filter v360 and what a reader has to know about it.
CONVERSIONS = {
    "posed": (
        "e",
        " with the yaw, pitch and roll at which it stands upright, or take its pose away if it does so already",
    ),
    "mesh": ("eac", ", if it is an equi-angular cubemap as YouTube's"),
    "eac": ("eac", ""),
    "equi-angular": ("eac", ""),
    "cubemap": ("c3x2", ", with the cube's layout in place of c3x2"),
    "half equirectangular": ("hequirect", "; half of the sphere stays black"),
    "equirectangular part": ("hequirect", ", if it is VR180; half of the sphere stays black"),
    "fisheye": ("fisheye", ", with ih_fov and iv_fov of the lens"),
}
# Ambisonics of order 0, 1, 2 and 3 have a square number of channels, the first of which is W.
AMBISONIC_CHANNELS = (4, 9, 16)
# Largest loss at a clip's end that is put down to rounding in the container, s.
LENGTH_TOLERANCE = 0.125


@dataclass(frozen=True, kw_only=True)
class StandardClip:
    """A recording that has passed every check, and how to read it."""

    name: str
    path: Path
    packing: Packing
    height: int
    """Rows of the panoramas for saliency and captions; they have twice as many columns."""
    view_height: int
    """Rows of the panoramas that views are rendered from, at least `height`."""
    duration: float
    """Length that both video and audio cover, s."""
    channels: int


def standardise(
    path: Path,
    name: str,
    config: Config,
    panorama_height: int = 512,
    stereo: Stereo = "auto",
    view_height: int = 1920,
) -> StandardClip:
    """Checks the recording at `path`: reads every packet, but decodes nothing.

    Args:
        path: a 360° video.
        name: name of its clip, unique in the dataset.
        config: its segments must fit into the video.
        panorama_height: rows that frames are reduced to for saliency and captions; smaller videos keep their own.
        stereo: how two eyes share a frame; "auto" takes the file's metadata, or without any judges by the aspect.
        view_height: rows that frames are reduced to for views, where that is more than `panorama_height`.

    Raises:
        MediaError: the file is missing, corrupt, without video or audio, no panorama, or shorter than one segment.
    """
    info = probe(path)
    packing = check_streams(info, stereo)
    duration = _common_duration(path, info.duration)
    if duration < config.clip.seconds - LENGTH_TOLERANCE:
        raise MediaError(
            f"{path}: has {duration:.2f} s of video and audio, shorter than a segment; "
            f"give at least {config.clip.seconds} s"
        )
    eye_height = info.height // 2 if packing == "top-bottom" else info.height
    return StandardClip(
        name=name,
        path=path,
        packing=packing,
        height=min(panorama_height, eye_height) // 2 * 2,
        view_height=min(max(view_height, panorama_height), eye_height) // 2 * 2,
        duration=duration,
        channels=info.channels,
    )


def check_streams(info: MediaInfo, stereo: Stereo) -> Packing:
    """Packing of the eyes in a frame, after a check of all streams.

    Raises:
        MediaError: video or audio is missing, the number of channels is unusable, or the video is no panorama.
    """
    if not info.has_video:
        raise MediaError(f"{info.path}: has no video stream; give a 360° video with audio")
    if not info.has_audio:
        raise MediaError(f"{info.path}: has no audio stream; give a 360° video with audio")
    if info.channels not in (1, 2, *AMBISONIC_CHANNELS):
        raise MediaError(
            f"{info.path}: has {info.channels} audio channels; give mono, stereo or ambisonics (4, 9 or 16 channels)"
        )
    return packing_of(info, stereo)


def packing_of(info: MediaInfo, stereo: Stereo) -> Packing:
    """Packing of the eyes in a frame.

    With "auto", credible metadata count like the user's own word: a file whose metadata contradict its aspect, such as
    one eye in a square frame, is rejected rather than guessed at.

    Raises:
        MediaError: neither one eye nor the frame has a panorama's aspect, or the metadata name a projection other than
            an equirectangular one of the whole sphere, or alternating eyes.
    """
    if info.projection not in ("", "equirectangular"):
        raise MediaError(
            f"{info.path}: its projection is {info.projection}, by its metadata; convert it to an equirectangular "
            f"panorama of the whole sphere: {_conversion(info.projection)}"
        )
    aspect = info.width / max(info.height, 1)
    credible = bool(info.projection) or aspect < PLAIN_ASPECT
    asked = info.stereo if stereo == "auto" and info.stereo and credible else stereo
    source = "by its metadata" if asked != stereo else f"--stereo {stereo}"
    low, high = PANORAMA_ASPECT
    for packing, factor in PACKED_ASPECT.items():
        packed = low <= aspect / factor <= high
        # A named packing may also be squeezed into a frame of one panorama's size: 1920x1080, top-bottom.
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


def _conversion(projection: str) -> str:
    """FFmpeg command that makes an equirectangular panorama of another projection, and a note on it."""
    known = (told for part, told in CONVERSIONS.items() if part in projection.lower())
    given, note = next(known, ("INPUT", ", with what its filter v360 calls this projection"))
    return f"ffmpeg -i IN -vf v360={given}:e OUT.mp4{note}"


def panorama(clip: StandardClip, frame: av.VideoFrame, height: int) -> UInt8[np.ndarray, "height width 3"]:
    """The left eye of a decoded frame as a 2:1 panorama of `height` rows, as it is shown.

    Raises:
        MediaError: the decoder marked the frame as corrupt.
    """
    width = 2 * height
    sizes = {"mono": (height, width), "top-bottom": (2 * height, width), "side-by-side": (height, 2 * width)}
    return rgb(frame, clip.path, *sizes[clip.packing])[:height, :width]


def read_mono(
    clip: StandardClip, start: float, seconds: float, sample_rate: int, limits: Limits
) -> Float32[np.ndarray, " sample"]:
    """Audio at `sample_rate` (Hz): channel W of ambisonics, the mean of left and right of stereo; times in s.

    Raises:
        MediaError: it cannot be decoded, holds NaN, or is clipped or silent by `limits`.
    """
    excerpt = read_excerpt(clip.path, sample_rate, start, seconds)
    used = slice(0, 2 if clip.channels == 2 else 1)
    check_stored(clip.path, start, excerpt.stored[:, used], limits)
    mono = excerpt.resampled()[:, used].mean(axis=1, dtype=np.float32)
    check_heard(clip.path, start, mono, limits)
    return mono


def _common_duration(path: Path, duration: float) -> float:
    """Time at which the shorter of video and audio ends, s; reads all packets and decodes none.

    Raises MediaError if the file is corrupt or cut off, before any of it is used.
    """
    with containers.opened(path) as container:
        streams = [
            stream
            for stream in (containers.video_stream(container), containers.audio_stream(container))
            if stream is not None
        ]
        promised = [containers.stream_end(container, stream) or duration for stream in streams]
        ends = dict.fromkeys((stream.index for stream in streams), 0.0)
        zero = containers.clock_start(container)
        counts = dict.fromkeys(ends, 0)
        for packet in container.demux(streams):
            if packet.is_corrupt:
                raise MediaError(f"{path}: is corrupt or cut off; give a complete file")
            counts[packet.stream.index] += bool(packet.size)
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - zero
                ends[packet.stream.index] = max(ends[packet.stream.index], end)
        for stream in streams:
            if not counts[stream.index]:
                raise MediaError(f"{path}: its {stream.type} stream is empty; give a complete file")
    for end, wanted in zip(ends.values(), promised, strict=True):
        if end < wanted - TAIL_TOLERANCE:
            raise MediaError(
                f"{path}: is cut off or corrupt: it stops at {end:.2f} s of {wanted:.2f} s; give a complete file"
            )
    return min(ends.values())
