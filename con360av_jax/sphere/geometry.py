"""The sphere, its equirectangular (ERP) panorama and perspective views of it, in NumPy.

World frame: x right, y up, z forward. Angles in radians: yaw (longitude) positive to the right, pitch (latitude)
positive up, roll positive clockwise. A panorama has H x W pixels, a view h x w, both counted from the top left corner.
(1) direction   d(yaw, pitch) = (cos pitch sin yaw, sin pitch, cos pitch cos yaw)
(2) ERP pixel   lon = ((x + 1/2) / W - 1/2) 2 pi,  lat = (1/2 - (y + 1/2) / H) pi      at the pixel's centre
(3) rotation    R = R_yaw R_pitch R_roll, camera to world
(4) view pixel  d = R (X, Y, 1),  X = (2 (j + 1/2) / w - 1) tan(hfov / 2),  Y = (1 - 2 (i + 1/2) / h) tan(vfov / 2)
(5) footprint   (X, Y, Z) = R^T d is inside iff |X| <= Z tan(hfov / 2), |Y| <= Z tan(vfov / 2): so Z > 0
(6) BASD        s(p) = +-min |p - b| over the points b of the footprint's outline, + inside; then min-max per clip
(7) solid angle 2 pi / W (sin lat_top - sin lat_bottom) of a panorama's pixel

Viewpoints in degrees and trajectories are in viewpoint.py. Source: Con360-AV (arXiv 2510.06060), "bounding
box-aware signed distance" (BASD).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import cv2
import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Num

from con360av_jax.errors import GeometryError
from con360av_jax.sphere.distance import signed_distance

Panorama: TypeAlias = Num[np.ndarray, "row column *channel"]
View: TypeAlias = Num[np.ndarray, "height width *channel"]
Angle: TypeAlias = float | int | np.floating
Interpolation: TypeAlias = Literal["linear", "cubic"]

_METHOD = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
_PADDING = 2  # pixels that a cubic kernel reads beyond the outermost pixel's outer half
_MAX_SIDE = 32_766  # cv2.remap counts pixels in signed 16-bit integers
_REMAP_COLUMNS = 16_384  # longest row in which directions are handed to cv2.remap
# Viewpoints are stored as float32, so an edge that runs exactly through pixel centres would flicker by rounding.
_EDGE_TOLERANCE = 1e-6


def direction_from_angles(
    yaw: Angle | Float[np.ndarray, "..."], pitch: Angle | Float[np.ndarray, "..."]
) -> Float[np.ndarray, "*point 3"]:
    """Unit vectors that look at longitude `yaw` and latitude `pitch`, broadcast, rad (equation 1), float64."""
    yaw, pitch = np.broadcast_arrays(np.asarray(yaw, np.float64), np.asarray(pitch, np.float64))
    return np.stack([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)], axis=-1)


def angles_from_direction(
    direction: Float[np.ndarray, "*point 3"],
) -> tuple[Float[np.ndarray, "*point"], Float[np.ndarray, "*point"]]:
    """Yaw in [-pi, pi] and pitch in [-pi/2, pi/2] of vectors of any length; exactly at a pole yaw is 0 or pi."""
    x, y, z = np.moveaxis(np.asarray(direction, np.float64), -1, 0)
    return np.asarray(np.arctan2(x, z)), np.asarray(np.arctan2(y, np.hypot(x, z)))


def directions(height: int, width: int) -> Float[np.ndarray, "height width 3"]:
    """Unit vectors of the pixel centres of a panorama (equation 2), float64."""
    longitude = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    return direction_from_angles(longitude[None, :], latitude[:, None])


@lru_cache(maxsize=4)
def _directions(height: int, width: int) -> Float[np.ndarray, "height width 3"]:
    """`directions`, cached: they are most of the work of a footprint. Read-only, because callers share them."""
    rays = directions(height, width)
    rays.flags.writeable = False
    return rays


def rotation(yaw: Angle, pitch: Angle, roll: Angle = 0.0) -> Float[np.ndarray, "3 3"]:
    """Camera-to-world rotation (equation 3): its columns are the camera's right, up and forward in the world."""
    angles = np.array([yaw, pitch, roll], np.float64)
    (sy, sp, sr), (cy, cp, cr) = np.sin(angles), np.cos(angles)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    tilt = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    lean = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return turn @ tilt @ lean


def _half_angles(horizontal_fov: Angle, vertical_fov: Angle) -> tuple[float, float]:
    for name, fov in (("horizontal", horizontal_fov), ("vertical", vertical_fov)):
        if not 0 < fov < np.pi:
            raise GeometryError(f"the {name} field of view is {fov:g} rad: give one between 0 and pi (180 degrees)")
    return float(horizontal_fov) / 2, float(vertical_fov) / 2


def view_directions(
    yaw: Angle,
    pitch: Angle,
    horizontal_fov: Angle,
    vertical_fov: Angle,
    height: int,
    width: int,
    roll: Angle = 0.0,
) -> Float[np.ndarray, "height width 3"]:
    """Vectors of a perspective view's pixel centres (equation 4), not of unit length, float64.

    Raises GeometryError unless both fields of view lie in (0, pi).
    """
    half_width, half_height = _half_angles(horizontal_fov, vertical_fov)
    x = (2 * (np.arange(width) + 0.5) / width - 1) * np.tan(half_width)
    y = (1 - 2 * (np.arange(height) + 0.5) / height) * np.tan(half_height)
    right, up, forward = rotation(yaw, pitch, roll).T[..., None, None]
    # Axis by axis: NumPy is several times slower if the innermost axis has three entries.
    return np.moveaxis(x[None, :] * right + y[:, None] * up + forward, 0, -1)


def continued(panorama: Panorama) -> Num[np.ndarray, "padded_row padded_column *channel"]:
    """The panorama continued by a few pixels, around in longitude and over the poles by half a turn, for `Places`.

    Raises GeometryError as `sample_erp` does.
    """
    height, width, channels = (*panorama.shape, 1)[:3] if panorama.ndim in (2, 3) else (0, 0, 0)
    if not 1 <= channels <= 4 or width % 2 or min(height, width) < _PADDING:
        raise GeometryError(
            f"a panorama of shape {panorama.shape}: give height, even width and 1 to 4 channels or none"
        )
    if max(height, width) + 2 * _PADDING > _MAX_SIDE:
        limit = _MAX_SIDE - 2 * _PADDING
        raise GeometryError(f"a panorama of {width}x{height} pixels: OpenCV samples at most {limit} a side, shrink it")
    # float64 is left out: OpenCV 5.0 rounds positions to 1/32 pixel for it, unlike for float32.
    if panorama.dtype not in (np.uint8, np.uint16, np.float32):
        raise GeometryError(f"a panorama of {panorama.dtype}: convert it to uint8, uint16 or float32")
    padded = np.empty((height + 2 * _PADDING, width + 2 * _PADDING, *panorama.shape[2:]), panorama.dtype)
    inner = padded[:, _PADDING:-_PADDING]
    inner[_PADDING:-_PADDING] = panorama
    inner[:_PADDING] = np.roll(panorama[:_PADDING][::-1], width // 2, axis=1)
    inner[-_PADDING:] = np.roll(panorama[-_PADDING:][::-1], width // 2, axis=1)
    padded[:, :_PADDING], padded[:, -_PADDING:] = inner[:, -_PADDING:], inner[:, :_PADDING]
    return padded


def sample_erp(
    panorama: Panorama, directions: Float[np.ndarray, "*point 3"], interpolation: Interpolation = "linear"
) -> Num[np.ndarray, "..."]:
    """Values of a panorama in the directions of vectors of any length: (*point, *channel), the panorama's dtype.

    Interpolation wraps around in longitude and over the poles. The error for a smooth image falls with the square of
    the pixel size for "linear"; OpenCV's "cubic" (a = -0.75) looks sharper but is off by up to 0.05 of the
    difference between neighbouring pixels, even on a plain slope. OpenCV before 5 also rounds every position to 1/32
    pixel.

    Raises GeometryError for another dtype than uint8, uint16 or float32, more than 4 channels, an odd width,
    or more than 32,762 pixels a side.
    """
    height, width = (*panorama.shape, 1, 1)[:2]
    return Places.seen_along(directions, height, width).sample(panorama, interpolation)


@dataclass(frozen=True)
class Places:
    """Positions of vectors on panoramas of one size, computed once and sampled from any number of them."""

    height: int
    width: int
    shape: tuple[int, ...]
    """Shape of the points."""
    x: Float[np.ndarray, "row column"]
    """Columns of the padded panorama, float32; the points as a 2-D array, padded at its end."""
    y: Float[np.ndarray, "row column"]

    @classmethod
    def seen_along(cls, directions: Float[np.ndarray, "*point 3"], height: int, width: int) -> "Places":
        """Positions of vectors of any length on height x width panoramas (equation 2)."""
        longitude, latitude = angles_from_direction(directions)
        # OpenCV limits the sides of its output as well as of its input.
        rows = max(1, math.ceil(longitude.size / _REMAP_COLUMNS))
        columns = math.ceil(longitude.size / rows)
        x = (longitude / (2 * np.pi) + 0.5) * width - 0.5 + _PADDING
        y = (0.5 - latitude / np.pi) * height - 0.5 + _PADDING
        x, y = (np.pad(axis.astype(np.float32).ravel(), (0, rows * columns - axis.size)) for axis in (x, y))
        x, y = (rearrange(axis, "(row column) -> row column", row=rows) for axis in (x, y))
        return cls(height, width, longitude.shape, x, y)

    def sample(self, panorama: Panorama, interpolation: Interpolation = "linear") -> Num[np.ndarray, "..."]:
        """`sample_erp` for the same vectors; also raises GeometryError for a panorama of another size."""
        return self.sample_continued(continued(panorama), interpolation)

    def sample_continued(
        self, around: Num[np.ndarray, "padded_row padded_column *channel"], interpolation: Interpolation = "linear"
    ) -> Num[np.ndarray, "..."]:
        """`sample` of a panorama that is `continued` already, for several views of it."""
        height, width = (side - 2 * _PADDING for side in around.shape[:2])
        if (height, width) != (self.height, self.width):
            raise GeometryError(f"a panorama of {width}x{height}: give one of {self.width}x{self.height} pixels")
        shape, count = (*self.shape, *around.shape[2:]), math.prod(self.shape)
        if count == 0:
            return np.zeros(shape, around.dtype)
        sampled = cv2.remap(around, self.x, self.y, _METHOD[interpolation])
        return rearrange(sampled, "row column ... -> (row column) ...")[:count].reshape(shape)


def render_view(
    panorama: Panorama,
    yaw: Angle,
    pitch: Angle,
    horizontal_fov: Angle,
    vertical_fov: Angle,
    height: int,
    width: int,
    roll: Angle = 0.0,
    interpolation: Interpolation = "linear",
) -> View:
    """Perspective (gnomonic) view of a panorama, height x width pixels, in the panorama's dtype (equation 4).

    Nothing is smoothed: where a view's pixel is larger than the panorama's, render finer and average.

    Raises GeometryError as `view_directions` and `sample_erp` do.
    """
    rays = view_directions(yaw, pitch, horizontal_fov, vertical_fov, height, width, roll)
    return sample_erp(panorama, rays, interpolation)


def footprint(
    yaw: Angle,
    pitch: Angle,
    horizontal_fov: Angle,
    vertical_fov: Angle,
    height: int,
    width: int,
    roll: Angle = 0.0,
) -> Bool[np.ndarray, "height width"]:
    """Mask of a panorama's pixels that a view sees (equation 5); a pixel centre on the edge is inside.

    Raises GeometryError unless both fields of view lie in (0, pi).
    """
    half_width, half_height = _half_angles(horizontal_fov, vertical_fov)
    x, y, z = np.moveaxis(_directions(height, width) @ rotation(yaw, pitch, roll), -1, 0)
    beside = np.abs(x) <= z * np.tan(half_width + _EDGE_TOLERANCE)
    return beside & (np.abs(y) <= z * np.tan(half_height + _EDGE_TOLERANCE))


def _viewpoint_mask(viewpoint: Float[np.ndarray, "4"], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    yaw, pitch, horizontal_fov, vertical_fov = viewpoint
    mask = footprint(yaw, pitch, horizontal_fov, vertical_fov, height, width)
    if not mask.any():
        # A view narrower than a pixel still marks its direction.
        nearest = (_directions(height, width) @ direction_from_angles(yaw, pitch)).argmax()
        mask.flat[nearest] = True
    return mask


def basd(viewpoint: Float[np.ndarray, "frame 4"], height: int, width: int) -> Float[np.ndarray, "frame height width"]:
    """Signed distance maps of a viewpoint track (yaw, pitch, horizontal and vertical fov in rad), float32 in [0, 1].

    Min-max normalised over the whole clip (equation 6). Frames that share a viewpoint share the work.

    Raises GeometryError for a track of another shape or a field of view outside (0, pi).
    """
    track = np.asarray(viewpoint, np.float64)
    if track.ndim != 2 or track.shape[1] != 4 or not len(track):
        raise GeometryError(
            f"a viewpoint track of shape {track.shape}: give (frames, 4), yaw, pitch and two fields of view"
        )
    if (track == track[0]).all():
        # The usual case; it needs no copy per frame.
        still = minmax(signed_distance(_viewpoint_mask(track[0], height, width)))
        return np.broadcast_to(still, (len(track), height, width))
    distinct, of_frame = np.unique(track, axis=0, return_inverse=True)
    maps = minmax(np.stack([signed_distance(_viewpoint_mask(row, height, width)) for row in distinct]))
    return maps[of_frame.ravel()]


def minmax(maps: Num[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """All maps of a clip stretched together to [0, 1], float32; maps without contrast become 0."""
    low, high = np.float32(maps.min()), np.float32(maps.max())
    if low == high:
        return np.zeros(maps.shape, np.float32)
    return (maps.astype(np.float32) - low) / (high - low)


def solid_angle_weights(height: int, width: int) -> Float[np.ndarray, "height width"]:
    """Solid angle of each pixel of a panorama, sr (equation 7); they sum to 4 pi, float64."""
    edges = np.sin((0.5 - np.arange(height + 1) / height) * np.pi)
    return np.repeat((edges[:-1] - edges[1:])[:, None] * 2 * np.pi / width, width, axis=1)
