"""Reads and writes video and audio files with PyAV: frames are selected by timestamp, audio channels are never mixed.

Times are in seconds on the file's clock, which starts with its earliest stream: video and audio that were recorded
together stay in sync even if one stream starts later than the other.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float32, Int16, Shaped, UInt8

from con360av_jax.errors import MediaError
from con360av_jax.media import containers
from con360av_jax.media.excerpt import AudioExcerpt
from con360av_jax.media.frame_reader import TAIL_TOLERANCE, FrameReader
from con360av_jax.media.presentation import rgb, shown_size
from con360av_jax.media.spherical_metadata import spherical_metadata
from con360av_jax.runtime.files import replacing

CLIP_SUFFIXES = (".mp4", ".mov")
"""Endings of the files that `write_clip` writes, in any case."""
# Extra audio on both sides of a resampled excerpt, s: the excerpt then equals that part of the whole file resampled.
RESAMPLE_MARGIN = 0.05


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """Streams and metadata of a media file; fields of a missing stream are 0 or empty."""

    path: Path
    duration: float
    """Length from the first stream's start to the last stream's end, s."""
    width: int
    """Width of the video as it is shown: turned by its display matrix, with square pixels."""
    height: int
    """Height of the video as it is shown."""
    frames_per_second: float
    video_codec: str
    sample_rate: int
    """Samples per second and channel, Hz."""
    channels: int
    audio_codec: str
    layout: str = ""
    """FFmpeg's name of the channel layout, such as "stereo", "quad" or "ambisonic 1"; ambisonics are often "quad"."""
    projection: str = ""
    """Projection of the sphere in the file's metadata: one of `spherical_metadata.PROJECTIONS`, "mesh" or what else the
    file calls it; empty if not stated."""
    stereo: str = ""
    """Stereo mode in the file's metadata, one of `spherical_metadata.STEREO_MODES`; empty if not stated."""
    streams: tuple[str, ...] = ()
    """Kind of every stream in the file: "video", "audio", "subtitle", "data"."""

    @property
    def has_video(self) -> bool:
        """Whether there is a video stream."""
        return bool(self.video_codec)

    @property
    def has_audio(self) -> bool:
        """Whether there is an audio stream."""
        return bool(self.audio_codec)


def probe(path: str | Path) -> MediaInfo:
    """Reads streams and metadata of a media file from its header and its first frame.

    Raises:
        MediaError: missing, a folder, not a media file, or corrupt before its first frame or audio.
    """
    with containers.opened(path) as container:
        video, audio = containers.video_stream(container), containers.audio_stream(container)
        if video is None and audio is None:
            raise MediaError(f"{path}: has neither video nor audio; give a video file such as an mp4")
        rate = (video.average_rate or video.guessed_rate or 0) if video else 0
        # First, for it may have to read all packets and rewind.
        duration = containers.duration(container)
        first = next(iter(container.decode(video)), None) if video else None
        projection, stereo = spherical_metadata(Path(path), first)
        height, width = shown_size(video, first, path) if video else (0, 0)
        return MediaInfo(
            path=Path(path),
            duration=duration,
            width=width,
            height=height,
            frames_per_second=float(rate),
            video_codec=video.codec_context.name if video else "",
            sample_rate=(audio.codec_context.sample_rate or 0) if audio else 0,
            channels=audio.codec_context.layout.nb_channels if audio else 0,
            audio_codec=audio.codec_context.name if audio else "",
            layout=audio.codec_context.layout.name if audio else "",
            projection=projection,
            stereo=stereo,
            streams=tuple(stream.type for stream in container.streams),
        )


def read_frames(
    path: str | Path,
    frames_per_second: float,
    start: float = 0.0,
    seconds: float | None = None,
    size: tuple[int, int] | None = None,
    longest_gap: float = math.inf,
) -> UInt8[np.ndarray, "frame height width 3"]:
    """Reads RGB frames at times `start + k / frames_per_second`: each is the most recent frame of the file, as shown.

    Args:
        path: a media file with video.
        frames_per_second: rate of the result, independent of the file's own.
        start: time of the first frame, s.
        seconds: length, s; None reads to the end. The first and last frame are repeated beyond the ends.
        size: (height, width) to stretch to; None takes that of the video as shown, with square pixels.
        longest_gap: longest time within the excerpt without a new frame, s.

    Raises:
        MediaError: as `probe`; or no video stream, `start` after the end, corrupt or missing data, or a gap longer
            than `longest_gap`.
    """

    def picture(frame: av.VideoFrame, shown: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
        return rgb(frame, path, *(size or shown))

    with FrameReader(path, frames_per_second, picture, longest_gap) as reader:
        seconds = reader.length(start, seconds)
        video, count = np.empty((0, 0, 0, 3), np.uint8), reader.count(seconds)
        for number, image in enumerate(reader.excerpt(start, seconds)):
            if number == 0:
                video = np.empty((count, *image.shape), np.uint8)
            video[number] = image
        return video


def read_audio(
    path: str | Path, sample_rate: int, start: float = 0.0, seconds: float | None = None
) -> Float32[np.ndarray, "sample channel"]:
    """Reads the raw channels, each resampled alone and never mixed; four channels are ambisonic ACN W, Y, Z, X.

    Arguments and errors are those of `read_excerpt`.
    """
    return read_excerpt(path, sample_rate, start, seconds).resampled()


def read_excerpt(path: str | Path, sample_rate: int, start: float = 0.0, seconds: float | None = None) -> AudioExcerpt:
    """Reads audio at the file's own rate, ready to be resampled.

    Args:
        path: a media file with audio.
        sample_rate: target rate of the later resampling, Hz.
        start: time of the first sample, s.
        seconds: length, s; None reads to the end. Time beyond either end of the file is silence.

    Raises:
        MediaError: as `probe`; or no audio stream, `start` after the end, or corrupt or missing data.
    """
    with containers.opened(path) as container:
        stream = containers.audio_stream(container)
        if stream is None:
            raise MediaError(f"{path}: has no audio stream, but audio is needed; give a video with audio")
        seconds = containers.checked_length(path, containers.duration(container), start, seconds)
        rate = stream.codec_context.sample_rate
        if not rate:
            raise MediaError(f"{path}: its audio stream states no sample rate; the file is corrupt")
        common = math.gcd(rate, sample_rate)
        up, down = sample_rate // common, rate // common
        periods = 0 if up == down else math.ceil(RESAMPLE_MARGIN * rate / down)
        margin = periods * down
        count = round(seconds * sample_rate)
        first = round(start * rate) - margin
        native = np.zeros((math.ceil(count * down / up) + 2 * margin, stream.codec_context.layout.nb_channels), "f4")
        end = -math.inf
        for position, block in containers.audio_blocks(container, stream, first / rate):
            begin, end = position - first, position + len(block)
            source = block[max(0, -begin) : max(0, len(native) - begin)]
            native[max(0, begin) : max(0, begin) + len(source)] = source
            if begin >= len(native):
                break
        if math.isinf(end):
            raise MediaError(f"{path}: no audio could be decoded at {start:g} s; the file is corrupt or cut off")
        promised = containers.stream_end(container, stream)
        if promised is not None and end / rate < min(promised, start + seconds) - TAIL_TOLERANCE:
            raise MediaError(
                f"{path}: is cut off or corrupt: no audio after {max(end / rate, 0):.2f} s of {promised:.2f} s; "
                "give a complete file"
            )
        return AudioExcerpt(native=native, margin=margin, up=up, down=down, count=count)


def write_clip(
    path: str | Path,
    video: UInt8[np.ndarray, "frame height width 3"],
    frames_per_second: float,
    audio: Shaped[np.ndarray, "sample ..."] | None,
    sample_rate: int,
    lossless_audio: bool = False,
) -> None:
    """Writes H.264 video and AAC audio, or FLAC audio that `read_audio` returns bit for bit as int16.

    H.264's colour planes need even sizes: an odd height or width gains one repeated row or column.

    Args:
        path: the file, an mp4, or QuickTime if it ends in .mov; replaced atomically when complete.
        video: RGB frames.
        frames_per_second: frame rate, Hz.
        audio: (sample,) or (sample, channel), int16 or floating point in [-1, 1]; None writes no audio stream.
        sample_rate: rate of `audio`, Hz.
        lossless_audio: FLAC instead of AAC; four ambisonic channels (ACN W, Y, Z, X) need it.

    Raises:
        MediaError: wrong shape or type of video or audio, or a file that cannot be written.
    """
    if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8 or not len(video):
        raise MediaError(f"{path}: video must be uint8 (frame, height, width, 3), given {video.dtype} {video.shape}")
    pulses = None if audio is None else _int16(audio)
    channels = 0 if pulses is None else pulses.shape[1]
    if pulses is not None and channels not in containers.AUDIO_LAYOUTS:
        raise MediaError(f"{path}: audio has {channels} channels; write 1, 2 or 4")
    if channels == 4 and not lossless_audio:
        raise MediaError(f"{path}: AAC would damage 4-channel ambisonic audio; pass lossless_audio=True")
    odd_rows, odd_columns = video.shape[1] % 2, video.shape[2] % 2
    if odd_rows or odd_columns:
        video = np.pad(video, ((0, 0), (0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
    with replacing(path, MediaError) as aside, containers.created(aside, path) as container:
        containers.encode(container, video, Fraction(frames_per_second).limit_denominator(1001), pulses, sample_rate,
                "flac" if lossless_audio else "aac")  # fmt: skip


def _int16(audio: Shaped[np.ndarray, "sample ..."]) -> Int16[np.ndarray, "sample channel"]:
    """Audio as 16-bit samples (sample, channel); floating point is scaled by 32768, rounded and clipped."""
    if audio.ndim not in (1, 2) or not len(audio):
        raise MediaError(f"audio must be (sample,) or (sample, channel), given shape {audio.shape}")
    columns = audio[:, None] if audio.ndim == 1 else audio
    if columns.dtype == np.int16:
        return columns
    if not np.issubdtype(columns.dtype, np.floating) or not np.isfinite(columns).all():
        raise MediaError(f"audio must be int16 or finite floating point in [-1, 1], given {columns.dtype}")
    return np.clip(np.round(columns.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
