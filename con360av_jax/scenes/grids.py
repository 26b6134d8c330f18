"""Pixel grids that scenes are painted on: equirectangular panoramas, and perspective views without a panorama.

The box of longitudes that contains a cap of radius r around latitude b has the half width
    (1)  asin(sin r / cos b),   or all longitudes if the cap contains a pole.
A pixel at longitude l and latitude f lies, seen from an object at longitude 0 and latitude b, at the gnomonic
    (2)  p = cos f sin l / z,  q = (cos b sin f - sin b cos f cos l) / z,  z = sin b sin f + cos b cos f cos l;
in a view, whose pixels have the directions d, with the right, up and ahead of a camera that looks at the object at
    (3)  p = d.right / z,  q = d.up / z,  z = d.ahead.
"""

from functools import cached_property
from typing import Protocol, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float32

from con360av_jax.sphere.geometry import direction_from_angles, rotation, view_directions

Place: TypeAlias = tuple[float, float, float]
"""Longitude and latitude (rad) of an object and the tangent of its angular radius."""
Patch: TypeAlias = tuple[tuple[np.ndarray, np.ndarray], Float32[np.ndarray, "row column"], np.ndarray]
"""Index arrays of pixels, and their p and q in units of an object's size."""
Pixels: TypeAlias = slice | Bool[np.ndarray, "height width"]
"""Rows of a panorama or mask of a view's pixels."""
HIGHEST_HILL, LOWEST_HILL = np.radians(25.2), np.radians(-3.6)
"""Limits of the latitudes between which hills are painted."""
_BEHIND = 0.05  # cosine of the angle to an object from which on a pixel counts as far from it
_STAR = 0.008  # rad; smallest radius of a star
_SHARPEST = 1.2  # of a star's fall over a squared pixel


class Grid(Protocol):
    """Pixels with their directions, and how they lie around the horizon and around an object."""

    @property
    def directions(self) -> Float32[np.ndarray, "height width 3"]:
        """Unit vectors (x right, y up, z forward)."""
        ...

    @property
    def sky(self) -> Pixels:
        """Pixels above the horizon."""
        ...

    @property
    def ground(self) -> Pixels:
        """Pixels below the horizon."""
        ...

    @property
    def hills(self) -> Pixels:
        """Pixels that hills may cover."""
        ...

    @property
    def pixel(self) -> float:
        """Angle of a pixel, rad."""
        ...

    @property
    def ring(self) -> Float32[np.ndarray, "1 point 3"]:
        """Unit vectors on the horizon, at which the height of hills is computed."""
        ...

    def over_hills(self, heights: Float32[np.ndarray, "1 point"]) -> np.ndarray:
        """Values at the points of `ring`, for each pixel of `hills`, or broadcast to them."""
        ...

    def softness(self, size: float) -> float:
        """Size of a pixel in units of an object whose angular radius has the tangent `size`."""
        ...

    def patch(self, place: Place, reach: float) -> Patch | None:
        """Pixels within `reach` of an object, in its units; None if there is none."""
        ...

    def stars(self, sines: np.ndarray, longitudes: np.ndarray, lights: np.ndarray) -> Float32[np.ndarray, "*pixel 1"]:
        """Light of small soft discs at each pixel of `sky`, by the sine of their latitudes and their turns (0..1)."""
        ...


class PanoramaGrid:
    """Pixels of an equirectangular panorama, or of some of its rows."""

    def __init__(self, directions: Float[np.ndarray, "height width 3"]):
        self.directions = directions.astype(np.float32)
        height = len(directions)
        horizon = int(np.argmax(self.directions[:, 0, 1] < 0))
        self.sky: Pixels = slice(0, horizon)
        self.ground: Pixels = slice(horizon, None)
        self.hills: Pixels = slice(int(height * 0.36), int(np.ceil(height * 0.52)))
        self.pixel: float = np.pi / height
        flat = self.directions[self.hills] * np.array([1, 0, 1], np.float32)
        self.ring = (flat / np.linalg.norm(flat, axis=-1, keepdims=True))[:1]

    def over_hills(self, heights: Float32[np.ndarray, "1 point"]) -> np.ndarray:
        """See `Grid`."""
        return heights

    def softness(self, size: float) -> float:
        """See `Grid`."""
        return np.pi / (len(self.directions) * size)

    def patch(self, place: Place, reach: float) -> Patch | None:
        """See `Grid` and equation 2; p and q are 1000 for pixels behind the viewer."""
        (height, width), (longitude, latitude, scale) = self.directions.shape[:2], place
        rows, columns = self._pixels_around(longitude, latitude, float(np.arctan(reach * scale)))
        turn = ((columns + 0.5) / width - 0.5) * 2 * np.pi - longitude
        lift = ((0.5 - (rows + 0.5) / height) * np.pi)[:, None]
        ahead = np.cos(lift) * np.cos(turn)
        depth = np.sin(latitude) * np.sin(lift) + np.cos(latitude) * ahead
        depth = np.where(depth > _BEHIND, depth, np.inf) * scale
        p = np.cos(lift) * np.sin(turn) / depth
        q = (np.cos(latitude) * np.sin(lift) - np.sin(latitude) * ahead) / depth
        p, q = (np.where(np.isinf(depth), 1e3, axis).astype(np.float32) for axis in (p, q))
        return (rows[:, None], columns[None]), p, q

    def _pixels_around(self, longitude: float, latitude: float, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows and wrapped columns of the box that contains a cap of `radius` (rad), equation 1."""
        height, width = self.directions.shape[:2]
        top, bottom = ((0.5 - edge / np.pi) * height for edge in (latitude + radius, latitude - radius))
        rows = np.arange(max(0, int(np.floor(top))), min(height, int(np.ceil(bottom)) + 1))
        if abs(latitude) + radius >= np.pi / 2:
            return rows, np.arange(width)
        half = np.arcsin(np.sin(radius) / np.cos(latitude)) / (2 * np.pi) * width
        centre = (longitude / (2 * np.pi) + 0.5) * width
        columns = np.arange(int(np.floor(centre - half)), int(np.ceil(centre + half)) + 1)
        return rows, columns % width if columns.size < width else np.arange(width)

    def stars(self, sines: np.ndarray, longitudes: np.ndarray, lights: np.ndarray) -> Float32[np.ndarray, "*pixel 1"]:
        """See `Grid`."""
        height, width = self.directions[self.sky].shape[:2]
        stars = np.zeros((height, width, 1), np.float32)
        fall = _fall(np.pi / (2 * height))
        for sine, longitude, light in zip(sines, longitudes, lights, strict=True):
            latitude = np.arcsin(sine)
            row, column = (0.5 - latitude / np.pi) * 2 * height - 0.5, longitude * width - 0.5
            reach = min(width // 2, int(np.ceil(2 / np.cos(latitude))))
            rows = np.arange(max(0, int(row) - 1), min(height, int(row) + 3))
            columns = np.arange(int(column) - reach, int(column) + reach + 2)
            across = (columns - column) * np.cos(latitude)
            squared = (rows[:, None] - row) ** 2 + across[None] ** 2
            spot = np.exp(-squared * fall) * light
            np.add.at(stars, (rows[:, None], columns[None] % width), spot[..., None].astype(np.float32))
        return stars


class ViewGrid:
    """Pixels of a perspective view: yaw, pitch and two fields of view, rad (sphere/geometry.py, equation 4)."""

    def __init__(self, viewpoint: Float[np.ndarray, "4"], height: int, width: int):
        self._yaw, pitch, horizontal, vertical = (float(angle) for angle in viewpoint)
        self._camera, self._tangents = rotation(self._yaw, pitch), np.tan(np.array([horizontal, vertical]) / 2)
        self.pixel = float(2 * self._tangents[0] / width)
        rays = view_directions(self._yaw, pitch, horizontal, vertical, height, width).astype(np.float32)
        self.directions = rays / np.sqrt(np.square(rays).sum(axis=-1, keepdims=True))

    @property
    def sky(self) -> Pixels:
        """See `Grid`."""
        return self.directions[..., 1] >= 0

    @property
    def ground(self) -> Pixels:
        """See `Grid`."""
        return self.directions[..., 1] < 0

    @property
    def hills(self) -> Pixels:
        """See `Grid`."""
        low, high = np.sin([LOWEST_HILL, HIGHEST_HILL])
        return (self.directions[..., 1] > low) & (self.directions[..., 1] < high)

    @cached_property
    def _turns(self) -> Float32[np.ndarray, "pixel"]:
        """Turn of each pixel of `hills` from the view's middle, rad."""
        x, _, z = np.moveaxis(self.directions[self.hills], -1, 0)
        return (np.arctan2(x, z) - np.float32(self._yaw) + np.float32(np.pi)) % np.float32(2 * np.pi) - np.float32(
            np.pi
        )

    @cached_property
    def _points(self) -> Float[np.ndarray, "point"]:
        """Turns of the points of `ring`."""
        reach = float(np.abs(self._turns).max(initial=0.0)) + self.pixel
        return np.linspace(-reach, reach, 2 + int(2 * reach / self.pixel))

    @property
    def ring(self) -> Float32[np.ndarray, "1 point 3"]:
        """See `Grid`."""
        return direction_from_angles(self._yaw + self._points, 0.0)[None].astype(np.float32)

    def over_hills(self, heights: Float32[np.ndarray, "1 point"]) -> np.ndarray:
        """See `Grid`."""
        return np.interp(self._turns, self._points, heights[0]).astype(np.float32)

    def softness(self, size: float) -> float:
        """See `Grid`."""
        return self.pixel / size

    def patch(self, place: Place, reach: float) -> Patch | None:
        """See `Grid` and equation 3."""
        longitude, latitude, scale = place
        right, up, ahead = rotation(longitude, latitude).T.astype(np.float32)
        # The corner of the view is its farthest pixel.
        apart = np.arccos(np.clip(self._camera[:, 2] @ ahead, -1, 1))
        if apart > np.arctan(np.hypot(*self._tangents)) + np.arctan(reach * scale):
            return None
        depth = self.directions @ ahead
        near = depth > 1 / np.sqrt(1 + 2 * (reach * scale) ** 2)
        rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
        if not rows.size:
            return None
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        depth, rays = depth[box], self.directions[box]
        depth = np.where(depth > _BEHIND, depth, np.inf) * np.float32(scale)
        p, q = (np.where(np.isinf(depth), np.float32(1e3), rays @ axis / depth) for axis in (right, up))
        index = np.arange(rows[0], rows[-1] + 1)[:, None], np.arange(columns[0], columns[-1] + 1)[None]
        return index, p.astype(np.float32), q.astype(np.float32)

    def stars(self, sines: np.ndarray, longitudes: np.ndarray, lights: np.ndarray) -> Float32[np.ndarray, "*pixel 1"]:
        """See `Grid`."""
        height, width = self.directions.shape[:2]
        light = np.zeros((height, width), np.float32)
        x, y, z = (direction_from_angles((longitudes - 0.5) * 2 * np.pi, np.arcsin(sines)) @ self._camera).T
        depth = np.where(z > _BEHIND, z, np.inf)
        columns = ((x / depth / self._tangents[0]) + 1) / 2 * width - 0.5
        rows = (1 - (y / depth / self._tangents[1])) / 2 * height - 0.5
        inside = np.isfinite(depth) & (np.abs(columns - width / 2) < width / 2 + 2)
        inside &= np.abs(rows - height / 2) < height / 2 + 2
        fall = _fall(self.pixel)
        around = np.arange(-2, 4)
        for row, column, brightness in zip(rows[inside], columns[inside], lights[inside], strict=True):
            near_rows, near_columns = int(row) + around, int(column) + around
            near_rows = near_rows[(near_rows >= 0) & (near_rows < height)]
            near_columns = near_columns[(near_columns >= 0) & (near_columns < width)]
            squared = (near_rows[:, None] - row) ** 2 + (near_columns[None] - column) ** 2
            light[near_rows[:, None], near_columns[None]] += brightness * np.exp(-squared * fall)
        return light[self.sky][:, None]


def _fall(pixel: float) -> float:
    """Rate at which a star's light falls with the squared distance in pixels."""
    return max(_SHARPEST, (pixel / _STAR) ** 2)
