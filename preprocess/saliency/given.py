"""The `file` saliency backend: maps given in files."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Float32

from con360av_jax.config.settings import Config
from con360av_jax.errors import DatasetError
from con360av_jax.media.files import read_frames
from con360av_jax.runtime.files import file_stem
from con360av_jax.sphere.geometry import minmax
from preprocess.stages.segment import Segment, Window

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi")


@dataclass(frozen=True)
class FileSaliency:
    """The user's own maps of whole clips: `<folder>/<clip>.npy`, `.npz` (first array) or a grey video.

    Arrays are (frame, height, width) of any 2:1 size, at the config's frame rate from the start of the clip.
    """

    folder: Path

    def __call__(self, segment: Segment, config: Config) -> Float32[np.ndarray, "frame height width"]:
        """Maps of a segment; raises DatasetError if the clip has none, or too few, or no finite 2:1 panoramas."""
        clip, window = config.clip, segment.window
        path = self._find(window.clip.name)
        if path.suffix in VIDEO_SUFFIXES:
            size = (clip.map_height, clip.map_width)
            frames = read_frames(path, clip.frames_per_second, window.start, clip.seconds, size)
            maps = frames.mean(axis=-1, dtype=np.float32)
        else:
            maps = _array(path, window, config)
        if not np.isfinite(maps).all():
            raise DatasetError(f"{path}: holds NaN or infinity; give finite saliency maps")
        size = (clip.map_width, clip.map_height)
        return minmax(np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in maps]))

    def _find(self, clip: str) -> Path:
        candidates = [self.folder / f"{file_stem(clip)}{suffix}" for suffix in (".npy", ".npz", *VIDEO_SUFFIXES)]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise DatasetError(
                f"{self.folder}: has no saliency for clip {clip!r}; add {file_stem(clip)}.npy, .npz or .mp4"
            )
        return found


def _array(path: Path, window: Window, config: Config) -> Float[np.ndarray, "frame height width"]:
    """The segment's frames of an array file; pickled arrays are refused."""
    try:
        stored = np.load(path, allow_pickle=False)
        maps = stored if isinstance(stored, np.ndarray) else stored[stored.files[0]]
    except (OSError, ValueError, IndexError) as error:
        raise DatasetError(f"{path}: is no array file ({error}); save it with numpy.save") from error
    if maps.ndim != 3 or maps.shape[2] != 2 * maps.shape[1]:
        raise DatasetError(f"{path}: has shape {maps.shape}; give (frame, height, width) with width = 2 height")
    clip = config.clip
    first = round(window.start * clip.frames_per_second)
    if first + clip.frames > len(maps):
        raise DatasetError(
            f"{path}: has {len(maps)} maps, but segment {window.index} needs {first + clip.frames}; "
            f"give {clip.frames_per_second} per second of the clip"
        )
    return maps[first : first + clip.frames].astype(np.float32)
