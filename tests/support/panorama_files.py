"""Small 360° video files with pictures at chosen times and sound of any kind, for tests of what is read from them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream

from con360av_jax.media.frame_reader import FrameReader
from preprocess.stages.standardise import StandardClip
from preprocess.stages.standardise import panorama as panorama_of

RATE = 16_000
EVENLY = tuple(np.arange(16) / 8)


def panorama(number: int, height: int = 32, width: int = 64) -> np.ndarray:
    """Even grey of 20 + 5 per picture, with a white patch up and left."""
    picture = np.full((height, width, 3), 20 + 5 * number, np.uint8)
    picture[: height // 4, : width // 4] = 235
    return picture


def hiss(seconds: float = 2.0, channels: int = 1, rate: int = RATE) -> np.ndarray:
    """Even noise of -15 dBFS, float32."""
    return np.random.default_rng(0).uniform(-0.3, 0.3, (round(seconds * rate), channels)).astype(np.float32)


def write_panorama(
    path: Path,
    times: Sequence[float] = EVENLY,
    sound: np.ndarray | None = None,
    rate: int = RATE,
    layout: str = "mono",
    pictures: Sequence[np.ndarray] | None = None,
    metadata: dict[str, str] | None = None,
    x264: str = "",
    height: int = 32,
    matrix: Sequence[int] = (),
    pixel_aspect: Fraction = Fraction(1),
) -> Path:
    """Pictures at `times` (s), H.264, and `sound` as float PCM from 0 s on; Matroska or QuickTime by the name.

    Without `pictures`, they are `panorama`s of `height`. `matrix` is the display matrix, nine numbers in fixed point.
    """
    pictures = [panorama(number, height) for number in range(len(times))] if pictures is None else pictures
    height, width = pictures[0].shape[:2] if len(pictures) else (height, 64)
    options = {"threads": "1", "tune": "zerolatency", "crf": "12"} | ({"x264-params": x264} if x264 else {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base, stream.codec_context.sample_aspect_ratio = Fraction(1, 1000), pixel_aspect
        if matrix:
            stream.set_display_matrix(matrix)
        stream.metadata.update(metadata or {})
        voices = None if sound is None else container.add_stream("pcm_f32le", rate=rate)
        if isinstance(voices, AudioStream):
            voices.codec_context.layout = layout
        container.start_encoding()
        if isinstance(voices, AudioStream) and sound is not None:
            for first in range(0, len(sound), rate // 10):
                block = np.ascontiguousarray(sound[first : first + rate // 10].reshape(1, -1))
                frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
                container.mux(voices.encode(frame))
            container.mux(voices.encode(None))
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        if len(times):
            container.mux(stream.encode(None))
    return path


def standard_clip(path: Path, height: int = 32, duration: float = 2.0) -> StandardClip:
    """A recording of one eye and one channel that has passed its checks."""
    return StandardClip(
        name=path.stem, path=path, packing="mono", height=height, view_height=height, duration=duration, channels=1
    )


def read_panoramas(clip: StandardClip, start: float, seconds: float, frames_per_second: float) -> np.ndarray:
    """Panoramas of a clip at a rate of one's own, (frame, height, width, 3); times in s."""
    with FrameReader(clip.path, frames_per_second, lambda frame, shown: panorama_of(clip, frame, clip.height)) as read:
        return np.stack(list(read.excerpt(start, seconds)))
