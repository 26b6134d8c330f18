"""Opens, decodes and encodes media containers with PyAV; every failure becomes a MediaError that names the file."""

import platform
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from einops import rearrange
from jaxtyping import Int16, Num, UInt8

from con360av_jax.errors import Con360Error, MediaError, first_line
from con360av_jax.runtime.files import readable

MICROSECONDS = 1_000_000
# Decoding starts this much before an excerpt, so that decoders that overlap packets have settled, s.
SEEK_MARGIN = 1.0
PLAYABLE = "give a video that a player can open"
# What corrupt numbers in a file lead to: sizes that no memory holds, divisions by zero, formats that nothing knows.
UNREADABLE = (ArithmeticError, LookupError, MemoryError, NotImplementedError, RuntimeError, ValueError)
# Audio packets this close to their expected position are joined without gap, s: container clocks are rounded (1 ms in
# webm).
JITTER_TOLERANCE = 0.02
# A sample of corrupt floating-point audio beyond this counts as infinite; full scale is 1.
LOUDEST = 1e6
AUDIO_LAYOUTS = {1: "mono", 2: "stereo", 4: "quad"}
# H.264's code for BT.709, written into the file so that players and `presentation.rgb` invert the same conversion.
BT709 = 1
LIMITED_RANGE = 1
# One thread and no vector code newer than SSE4.2: the output of libx264's AVX-512 code depends on more than the frames,
# so the same clip sometimes gets different bytes. Encoding is no slower without it.
H264_OPTIONS = {"crf": "18", "preset": "veryfast", "threads": "1"}
if platform.machine() in {"x86_64", "AMD64"}:
    H264_OPTIONS["x264-params"] = "asm=SSE4.2"


@contextmanager
def opened(path: str | Path) -> Generator[InputContainer]:
    """Opens the container at `path`; errors that the file causes become MediaErrors that name it."""
    with guarded(path):
        _check_file(Path(path))
        # Playlists may name remote files: only local ones are followed.
        options = {"protocol_whitelist": "file"}
        # Tags are not read here, and may be in any encoding.
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            yield container


@contextmanager
def guarded(path: str | Path) -> Generator[None]:
    """Turns errors that the file at `path` causes within the block into MediaErrors that name it."""
    try:
        yield
    except PermissionError as error:
        raise MediaError(f"{path}: may not be read; change its permissions") from error
    except InvalidDataError as error:
        raise MediaError(f"{path}: is not a media file, or is corrupt; {PLAYABLE}") from error
    except FFmpegError as error:
        raise MediaError(f"{path}: cannot be decoded ({error.strerror}); {PLAYABLE}") from error
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror}); check the path and the disk") from error
    except Con360Error:
        raise
    except UNREADABLE as error:
        raise MediaError(f"{path}: is corrupt ({type(error).__name__}: {first_line(error)}); {PLAYABLE}") from error


def _check_file(path: Path) -> None:
    if readable(path) != str(path):
        # Keys, tables and ledgers are UTF-8.
        raise MediaError(f"{readable(path)}: its name is not UTF-8; rename it")
    if path.is_symlink() and not path.exists():
        raise MediaError(f"{path}: is a link to a file that is not there; correct the link")
    if not path.exists():
        raise MediaError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise MediaError(f"{path}: is not a file; give a video file such as an mp4")


def video_stream(container: InputContainer) -> VideoStream | None:
    """The first video stream that is not a cover image."""
    moving = (stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic)
    return next(moving, None)


def audio_stream(container: InputContainer) -> AudioStream | None:
    """The first audio stream; raises MediaError if FFmpeg has no decoder for it."""
    stream = next(iter(container.streams.audio), None)
    # PyAV's type stub omits that the codec may be missing.
    if stream is not None and getattr(stream, "codec_context", None) is None:
        raise MediaError(f"{container.name.removeprefix('file:')}: its audio is in an unknown codec; {PLAYABLE}")
    return stream


def clock_start(container: InputContainer) -> float:
    """Start of the container's earliest stream, s: the zero of the file's clock."""
    return (container.start_time or 0) / MICROSECONDS


def stream_end(container: InputContainer, stream: VideoStream | AudioStream) -> float | None:
    """End of the stream according to the header, s; None if the header does not state it."""
    if stream.duration is None or stream.time_base is None:
        return None
    return float((stream.start_time or 0) + stream.duration) * float(stream.time_base) - clock_start(container)


def duration(container: InputContainer) -> float:
    """Length of all streams together, s, from the header or else from the last packet."""
    if container.duration is not None and container.duration > 0:
        return container.duration / MICROSECONDS
    streams = [stream for stream in (video_stream(container), audio_stream(container)) if stream]
    packets = (packet for packet in container.demux(streams) if packet.pts is not None)
    ends = (float((packet.pts or 0) + (packet.duration or 0)) * float(packet.time_base) for packet in packets)
    last = max(ends, default=clock_start(container))
    container.seek(container.start_time or 0)
    return last - clock_start(container)


def checked_length(path: str | Path, available: float, start: float, seconds: float | None) -> float:
    """Length of an excerpt of a file of `available` s: `seconds`, or up to the end if that is None.

    Raises MediaError if the excerpt is empty or starts outside the file.
    """
    if not 0 <= start < available:
        raise MediaError(f"{path}: is {available:.2f} s long, but {start:g} s was asked for; start inside the file")
    seconds = available - start if seconds is None else seconds
    if seconds <= 0:
        raise MediaError(f"{path}: a length of {seconds:g} s was requested; request a positive length")
    return seconds


def _seek(container: InputContainer, stream: VideoStream | AudioStream, start: float) -> None:
    if start > SEEK_MARGIN and stream.time_base:
        container.seek(int((start - SEEK_MARGIN + clock_start(container)) / stream.time_base), stream=stream)


def video_frames(container: InputContainer, stream: VideoStream, start: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yields (time in s on the file's clock, frame) in time order from a key frame at or before `start`."""
    stream.thread_type = "AUTO"
    _seek(container, stream, start)
    zero, interval = clock_start(container), 1 / float(stream.average_rate or 25)
    time = -interval
    for frame in container.decode(stream):
        time = time + interval if frame.time is None else frame.time - zero
        yield time, frame


def audio_blocks(
    container: InputContainer, stream: AudioStream, start: float
) -> Iterator[tuple[int, Num[np.ndarray, "sample channel"]]]:
    """Yields (position on the file's clock in samples, raw channels as float32) from at or before `start`."""
    _seek(container, stream, start)
    zero, rate = clock_start(container), stream.codec_context.sample_rate
    channels = stream.codec_context.layout.nb_channels
    position = None
    for frame in container.decode(stream):
        if frame.sample_rate != rate or frame.layout.nb_channels != channels:
            raise MediaError(
                f"{container.name.removeprefix('file:')}: its audio changes from {channels} channels at {rate} Hz to "
                f"{frame.layout.nb_channels} at {frame.sample_rate} Hz; encode it anew"
            )
        stamp = position if frame.time is None else round((frame.time - zero) * rate)
        if position is None or stamp is None or abs(stamp - position) > JITTER_TOLERANCE * rate:
            position = stamp or 0
        block = _channels_last(frame)
        yield position, block
        position += len(block)


def _channels_last(frame: av.AudioFrame) -> Num[np.ndarray, "sample channel"]:
    """One decoded block as float32 in [-1, 1] for every sample format."""
    planes = frame.to_ndarray()
    pattern = "channel sample -> sample channel" if frame.format.is_planar else "1 (sample channel) -> sample channel"
    block = rearrange(planes, pattern, channel=frame.layout.nb_channels)
    if block.dtype == np.uint8:
        return (block.astype(np.float32) - 128) / 128
    full_scale = {np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31}.get(block.dtype, 1.0)
    # NaN and infinity are judged by what uses the samples; without a limit, sums of finite ones could overflow there.
    with np.errstate(invalid="ignore", over="ignore"):
        block = (block / full_scale).astype(np.float32)
        return np.where(np.abs(block) > LOUDEST, np.float32(np.inf), block)


@contextmanager
def created(aside: Path, name: str | Path) -> Generator[OutputContainer]:
    """Opens an empty mp4 at `aside`, or a QuickTime file if `name` ends in .mov.

    FFmpeg errors inside the block become a MediaError that names `name`.
    """
    try:
        form = "mov" if Path(name).suffix.lower() == ".mov" else "mp4"
        with av.open(f"file:{aside}", "w", format=form, options={"movflags": "+faststart"}) as container:
            yield container
    except FFmpegError as error:
        raise MediaError(f"{name}: cannot be written ({error.strerror}); choose another place") from error


def encode(
    container: OutputContainer,
    video: UInt8[np.ndarray, "frame height width 3"],
    frames_per_second: Fraction,
    audio: Int16[np.ndarray, "sample channel"] | None,
    sample_rate: int,
    audio_codec: str,
) -> None:
    """Encodes and interleaves frames of even size and audio into `container`."""
    video_encoder = _video_encoder(container, video.shape[1], video.shape[2], frames_per_second)
    audio_encoder = None if audio is None else container.add_stream(audio_codec, rate=sample_rate)
    audio = np.zeros((0, 1), np.int16) if audio is None else audio
    if isinstance(audio_encoder, AudioStream):
        audio_encoder.codec_context.layout = AUDIO_LAYOUTS[audio.shape[1]]
    written = 0
    for number, image in enumerate(video):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709
        )
        frame.pts, frame.time_base = number, 1 / frames_per_second
        container.mux(video_encoder.encode(frame))
        last = number == len(video) - 1
        until = len(audio) if last else int((number + 1) / frames_per_second * sample_rate)
        if isinstance(audio_encoder, AudioStream) and len(audio[written:until]):
            container.mux(audio_encoder.encode(_audio_frame(audio[written:until], written, sample_rate)))
            written = until
    container.mux(video_encoder.encode(None))
    if isinstance(audio_encoder, AudioStream):
        container.mux(audio_encoder.encode(None))


def _video_encoder(container: OutputContainer, height: int, width: int, frames_per_second: Fraction) -> VideoStream:
    stream = container.add_stream("libx264", rate=frames_per_second, options=H264_OPTIONS)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.colorspace, context.color_primaries, context.color_trc, context.color_range = (
        BT709,
        BT709,
        BT709,
        LIMITED_RANGE,
    )
    return stream


def _audio_frame(block: Int16[np.ndarray, "sample channel"], position: int, sample_rate: int) -> av.AudioFrame:
    packed = np.ascontiguousarray(rearrange(block, "sample channel -> 1 (sample channel)"))
    frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=AUDIO_LAYOUTS[block.shape[1]])
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, position, Fraction(1, sample_rate)
    return frame
