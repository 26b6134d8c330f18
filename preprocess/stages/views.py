"""Stage "views": perspective views of the panorama along a viewpoint's track, rendered without aliasing."""

import math

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from con360av_jax.sphere.geometry import Places, view_directions

# Panorama pixels per view pixel up to which bilinear sampling causes no visible aliasing.
EASY_MINIFICATION = 1.25


def render_track(
    frames: UInt8[np.ndarray, "frame row column 3"], track: Float[np.ndarray, "frame 4"], height: int, width: int
) -> UInt8[np.ndarray, "frame height width 3"]:
    """One gnomonic view per frame; where the panorama is finer than the view, each pixel is the mean over its area.

    Raises GeometryError for a field of view outside (0, pi) or frames that are no panoramas.
    """
    views = np.empty((len(frames), height, width, 3), np.uint8)
    before, places, finer = None, None, 1
    for view, frame, viewpoint in zip(views, frames, track.astype(float), strict=True):
        # A still viewpoint samples the same places in every frame.
        if places is None or (viewpoint != before).any():
            before = viewpoint
            yaw, pitch, horizontal, vertical = viewpoint
            sides = ((float(horizontal), width), (float(vertical), height))
            finer = max(oversampling(len(frame), *side) for side in sides)
            rays = view_directions(yaw, pitch, horizontal, vertical, height * finer, width * finer)
            places = Places.seen_along(rays, frames.shape[1], frames.shape[2])
        large = places.sample(frame)
        view[...] = large if finer == 1 else cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    return views


def oversampling(panorama_height: int, field_of_view: float, pixels: int) -> int:
    """Samples per view pixel and axis that the panorama's resolution needs at the view's centre."""
    minification = 2 * math.tan(field_of_view / 2) / pixels / (math.pi / panorama_height)
    return max(1, math.ceil(minification - EASY_MINIFICATION + 1))
