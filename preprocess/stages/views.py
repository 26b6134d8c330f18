"""Stage "views": perspective views of the panorama along a viewpoint's track, rendered without aliasing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from con360av_jax.sphere.geometry import Places, continued, view_directions

# Panorama pixels per view pixel up to which bilinear sampling causes no visible aliasing.
EASY_MINIFICATION = 1.25


def render_tracks(
    frames: Iterable[UInt8[np.ndarray, "row column 3"]],
    tracks: Sequence[Float[np.ndarray, "frame 4"]],
    height: int,
    width: int,
) -> list[UInt8[np.ndarray, "frame height width 3"]]:
    """One gnomonic view per frame and track; where the panorama is finer than the view, the mean over its pixels' area.

    Raises GeometryError for a field of view outside (0, pi) or frames that are no panoramas.
    """
    made = [np.empty((len(track), height, width, 3), np.uint8) for track in tracks]
    cameras: list[_Camera | None] = [None] * len(tracks)
    for number, frame in enumerate(frames):
        around = continued(frame)
        for which, track in enumerate(tracks):
            viewpoint = track[number].astype(float)
            camera = cameras[which]
            # A still viewpoint samples the same places in every frame.
            if camera is None or (viewpoint != camera.viewpoint).any():
                camera = cameras[which] = _camera(viewpoint, frame.shape[0], frame.shape[1], height, width)
            large = camera.places.sample_continued(around)
            fine = camera.finer == 1
            made[which][number] = large if fine else cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    return made


@dataclass(frozen=True)
class _Camera:
    """A view of panoramas of one size."""

    viewpoint: Float[np.ndarray, "4"]
    finer: int
    """Samples per view pixel and axis."""
    places: Places


def _camera(viewpoint: Float[np.ndarray, "4"], rows: int, columns: int, height: int, width: int) -> _Camera:
    yaw, pitch, horizontal, vertical = (float(angle) for angle in viewpoint)
    finer = max(oversampling(rows, horizontal, width), oversampling(rows, vertical, height))
    rays = view_directions(yaw, pitch, horizontal, vertical, height * finer, width * finer)
    return _Camera(viewpoint, finer, Places.seen_along(rays, rows, columns))


def oversampling(panorama_height: int, field_of_view: float, pixels: int) -> int:
    """Samples per view pixel and axis that the panorama's resolution needs at the view's centre."""
    minification = 2 * math.tan(field_of_view / 2) / pixels / (math.pi / panorama_height)
    return max(1, math.ceil(minification - EASY_MINIFICATION + 1))
