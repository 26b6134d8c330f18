"""Tangent images of SalViT360: their directions, sampling of a panorama, and projection of their maps to a panorama.

(1) plane     x, y in [-1, 1] radians(fov) / 2,   y downwards;   rho = sqrt(x^2 + y^2),   c = atan(rho)
(2) to sphere lat = asin(cos c sin lat_0 + y sin c cos lat_0 / rho)
              lon = lon_0 + atan2(x sin c, rho cos lat_0 cos c - y sin lat_0 sin c)
(3) to plane  cos c = sin lat_0 sin lat + cos lat_0 cos lat cos(lon - lon_0)
              x = cos lat sin(lon - lon_0) / cos c
              y = (cos lat_0 sin lat - sin lat_0 cos lat cos(lon - lon_0)) / cos c
(4) back      S(p) = sum_k w_k m_k / sum_k w_k over the pixels m_k of all tangent images around p

Longitude is positive to the right. Latitude is positive DOWNWARDS, -pi/2 is the panorama's top row, as in the published
network, whose input it is. A panorama's first and last pixel lie on -pi and pi (-pi/2 and pi/2).

Source: Cokelek et al., "Spherical Vision Transformer for 360° Video Saliency Prediction" (SalViT360), BMVC 2023, and
its published code; (2), (3) are the gnomonic projection, Snyder, "Map projections: a working manual", 1987, section 22.
"""

from dataclasses import dataclass

import numpy as np
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Float32
from scipy.sparse import coo_array, csr_array

# Height and width of a tangent image: input of the encoder, grid of its coordinates, and map that is projected back.
VIEW_SIZE = 224
POSITION_SIZE = 56
MAP_SIZE = 28
# Cells per side to which a tangent image's coordinates are averaged, and channels per cell.
POSITION_CELLS = 14
POSITION_CHANNELS = 5
# Bilinear weights up to this are dropped, as in the published code.
SMALLEST_WEIGHT = 1e-5


@dataclass(frozen=True, kw_only=True)
class TangentLayout:
    """One set of tangent images, numbered along each row, rows from the top; angles in degrees."""

    columns: tuple[int, ...]
    """Number of tangent images in each row."""
    latitudes: tuple[float, ...]
    """Latitude of each row's centres when panoramas are sampled."""
    latitudes_back: tuple[float, ...]
    """Latitude of the same centres when maps are projected back."""
    field_of_view: float
    """As published; the true field of view is 2 atan(radians / 2), which is smaller, see `half_width`."""
    first_centre: float
    """Longitude of a row's first centre from the panorama's left border, in distances between its centres."""

    @property
    def count(self) -> int:
        """Number of tangent images in the set."""
        return sum(self.columns)

    @property
    def half_width(self) -> float:
        """Half a tangent image on the tangent plane.

        Kept from the published model, whose weights were trained with it: the angle itself is used as the length on the
        plane, without tan, so that 80° covers 69.8° and 120° covers 92.6°.
        """
        return float(np.radians(self.field_of_view)) / 2

    def centres(self, latitudes: tuple[float, ...]) -> Float[np.ndarray, "tangent 2"]:
        """Longitude and latitude of every centre, rad."""
        angles = [
            ((column + self.first_centre) * 360 / columns - 180, latitude)
            for columns, latitude in zip(self.columns, latitudes, strict=True)
            for column in range(columns)
        ]
        return np.radians(angles)


NARROW = TangentLayout(
    columns=(3, 6, 6, 3),
    latitudes=(-67.5, -22.5, 22.5, 67.5),
    latitudes_back=(-67.5, -22.5, 22.5, 67.5),
    field_of_view=80,
    first_centre=0.5,
)
# Kept from the published model: projection back at 59.6°, although the images are sampled at 60°.
WIDE = TangentLayout(
    columns=(3, 4, 3),
    latitudes=(-60, 0, 60),
    latitudes_back=(-59.6, 0, 59.6),
    field_of_view=120,
    first_centre=1.0,
)


def tangent_angles(layout: TangentLayout, size: int) -> Float[np.ndarray, "tangent row column 2"]:
    """Longitude in [-pi, pi] and latitude of every pixel of square tangent images, rad, equations (1) and (2).

    The outermost pixels lie on the border. `size` is even: exactly at the centre (2) is 0 / 0.
    """
    across = np.linspace(-1, 1, size) * layout.half_width
    x, y = np.meshgrid(across, across)
    rho = np.hypot(x, y)
    sin_c, cos_c = np.sin(np.arctan(rho)), np.cos(np.arctan(rho))
    longitude_0, latitude_0 = rearrange(layout.centres(layout.latitudes), "tangent angle -> angle tangent 1 1")
    sine, cosine = np.sin(latitude_0), np.cos(latitude_0)
    latitude = np.arcsin(cos_c * sine + y * sin_c * cosine / rho)
    longitude = longitude_0 + np.arctan2(x * sin_c, rho * cosine * cos_c - y * sine * sin_c)
    return np.stack([(longitude + np.pi) % (2 * np.pi) - np.pi, latitude], axis=-1)


def sampling_grid(layout: TangentLayout) -> Float32[np.ndarray, "tangent row column 2"]:
    """Position in the panorama of each pixel of the encoder's input, in [-1, 1] from border to border."""
    return (tangent_angles(layout, VIEW_SIZE) / (np.pi, np.pi / 2)).astype(np.float32)


def position_input(layout: TangentLayout) -> Float32[np.ndarray, "tangent feature"]:
    """Position features of each tangent image for the transformer, in the order channel, row, column.

    Per cell: cos lat sin lon and cos lat cos lon on its mean pixel, 1, and the centre's longitude and latitude as
    shares of pi and pi/2.
    """
    longitude, latitude = np.moveaxis(tangent_angles(layout, POSITION_SIZE), -1, 0)
    centres = layout.centres(layout.latitudes) / (np.pi, np.pi / 2)
    channels = [np.cos(latitude) * np.sin(longitude), np.cos(latitude) * np.cos(longitude), np.ones_like(latitude)]
    size = POSITION_SIZE
    channels += [repeat(angle, "tangent -> tangent row column", row=size, column=size) for angle in centres.T]
    cells = reduce(
        np.stack(channels, axis=1),
        "tangent channel (row height) (column width) -> tangent channel row column",
        "mean",
        row=POSITION_CELLS,
        column=POSITION_CELLS,
    )
    return rearrange(cells, "tangent channel row column -> tangent (channel row column)").astype(np.float32)


def back_projection(layout: TangentLayout, height: int, width: int) -> csr_array:
    """Equation (4) as a matrix: panorama pixels (row by row) over map pixels, in the order (row, column, tangent).

    Each row of the matrix sums to 1. A map has MAP_SIZE pixels a side.
    """
    longitude, latitude = np.linspace(-np.pi, np.pi, width), np.linspace(-np.pi / 2, np.pi / 2, height)[:, None]
    rows, columns, weights = [], [], []
    for tangent, centre in enumerate(layout.centres(layout.latitudes_back)):
        x, y, seen = _map_pixels(longitude, latitude, centre, layout.half_width)
        pixel = np.flatnonzero(seen)
        for row, column, weight in _bilinear(x[seen], y[seen]):
            kept = weight > SMALLEST_WEIGHT
            rows.append(pixel[kept])
            columns.append(((row * MAP_SIZE + column) * layout.count + tangent)[kept])
            weights.append(weight[kept])
    pixel, weight = np.concatenate(rows), np.concatenate(weights)
    total = np.bincount(pixel, weights=weight, minlength=height * width)
    shape = (height * width, MAP_SIZE * MAP_SIZE * layout.count)
    # Taps that fall together at a map's border are added up.
    return coo_array((weight / total[pixel], (pixel, np.concatenate(columns))), shape=shape).tocsr()


def _map_pixels(
    longitude: Float[np.ndarray, " column"],
    latitude: Float[np.ndarray, "row 1"],
    centre: Float[np.ndarray, "2"],
    half_width: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column and row in one tangent image's map, equation (3), and whether the direction is inside it."""
    difference, latitude_0 = longitude - centre[0], centre[1]
    sine, cosine = np.sin(latitude_0), np.cos(latitude_0)
    cos_c = sine * np.sin(latitude) + cosine * np.cos(latitude) * np.cos(difference)
    in_front = cos_c > 0
    depth = np.where(in_front, cos_c, 1.0)
    x = np.cos(latitude) * np.sin(difference) / depth
    y = (cosine * np.sin(latitude) - sine * np.cos(latitude) * np.cos(difference)) / depth
    column, row = ((axis / half_width + 1) / 2 * MAP_SIZE for axis in (x, y))
    inside = (column > 0) & (column < MAP_SIZE) & (row > 0) & (row < MAP_SIZE)
    return column, row, inside & in_front


def _bilinear(
    x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Row, column and weight of the four pixels around each point.

    Kept from the published model: weights are measured from the neighbours after these were held inside the map, so
    past the last pixel they run from 0 up to 1 where interpolation would be constant, or are negative and dropped.
    """
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, MAP_SIZE - 1), np.minimum(top + 1, MAP_SIZE - 1)
    return [
        (top, left, (right - x) * (bottom - y)),
        (bottom, left, (right - x) * (y - top)),
        (top, right, (x - left) * (bottom - y)),
        (bottom, right, (x - left) * (y - top)),
    ]
