"""Input images of BLIP-2: six cube faces of the panorama, once per second of a segment."""

import hashlib

import numpy as np
from einops import rearrange
from jaxtyping import UInt8

from con360av_jax.sphere.cube import QUARTERS
from preprocess.stages.segment import Segment
from preprocess.stages.views import render_tracks

FACES = ("front", "right", "back", "left", "up", "down")


def face_times(segment: Segment, frames_per_second: float) -> dict[float, int]:
    """Times in the clip (s) at which faces are rendered, the middle of each second, and the frame index of each."""
    seconds = max(1, int(len(segment.frames) / frames_per_second))
    numbers = [int((second + 0.5) / seconds * len(segment.frames)) for second in range(seconds)]
    return {segment.window.start + number / frames_per_second: number for number in numbers}


def face_pictures(
    frames: UInt8[np.ndarray, "frame height width 3"], size: int
) -> UInt8[np.ndarray, "frame*face size size 3"]:
    """The faces of each panorama, in the order of `FACES`, each 90 degrees wide, rendered without aliasing."""
    cameras = [np.array([yaw, pitch, 1, 1]) * np.pi / 2 for yaw, pitch in QUARTERS]
    views = render_tracks(frames, [np.tile(camera, (len(frames), 1)) for camera in cameras], size, size)
    return rearrange(np.stack(views), "face frame row column rgb -> (frame face) row column rgb")


def picture_digest(frames: UInt8[np.ndarray, "frame height width 3"]) -> str:
    """Digest of the panoramas, so that a clip that was replaced or read at another size gets new texts."""
    return hashlib.sha256(frames.tobytes()).hexdigest()[:16]
