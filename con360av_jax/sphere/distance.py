"""Exact distance from each pixel of a panorama to the outline of a mask, in NumPy.

Lengths are counted in half pixels, so all squares are integers. Pixel (r, c) has its centre at
(2 r + 1, 2 c + 1); the outline is made of pixel sides. An upright side right of (r, c) lies at column 2 c + 2, a level
side below (r, c) at row 2 r + 2; both are 2 long. With R, C the pixel whose distance is asked for:
(1) upright   down = max(2 |R - r| - 1, 0)      across = |2 C + 1 - (2 c + 2)|
(2) level     down = |2 R + 1 - (2 r + 2)|      across = max(2 |C - c| - 1, 0)
(3) distance^2 = min over rows of (down^2 + min over that row's sides of across^2)
since `down` depends on the row of a side alone. Columns wrap around.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

# Sums computed at once, sized to a thread's share of the cache.
_BLOCK = 2**17


def signed_distance(mask: Bool[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """Distance in pixels from each pixel's centre to the mask's outline, + inside, - outside, float32.

    The outline runs between pixels: the two pixels on its sides have +1/2 and -1/2, none has 0, and neighbours
    differ by at most their own distance. The panorama wraps around in longitude, not over the poles. A mask without
    outline is +W/2 (all inside) or -W/2 (all outside) everywhere.
    """
    height, width = mask.shape
    if mask.all() or not mask.any():
        return np.full((height, width), width / 2 if mask.any() else -width / 2, np.float32)
    down, across = _outline_rows(mask)
    # Wide enough for any sum: two pixels lie at most H - 1 rows and, around the seam, W / 2 columns apart.
    whole = np.min_scalar_type(4 * height**2 + (width + 1) ** 2)
    down, across = np.square(down).astype(whole), np.square(across).astype(whole)
    nearest = np.full((height, width), np.iinfo(whole).max, whole)
    rows = max(1, _BLOCK // (height * width))
    sums = np.empty((rows, height, width), whole)
    for start in range(0, len(down), rows):
        some = slice(start, start + rows)
        both = np.add(down[some, :, None], across[some, None, :], out=sums[: len(down[some])])
        np.minimum(nearest, both.min(axis=0), out=nearest)
    distance = np.sqrt(nearest, dtype=np.float32) / 2
    return np.where(mask, distance, -distance)


def _outline_rows(
    mask: Bool[np.ndarray, "height width"],
) -> tuple[Int[np.ndarray, "row height"], Int[np.ndarray, "row width"]]:
    """`down` for each R and `across` for each C, of every row of sides (equations 1 and 2)."""
    upright, level = mask != np.roll(mask, -1, axis=1), mask[1:] != mask[:-1]
    upright_rows, level_rows = np.flatnonzero(upright.any(axis=1)), np.flatnonzero(level.any(axis=1))
    last, following = _columns_to(upright[upright_rows])
    # The last upright side on a pixel's left is the right side of a pixel further left.
    across_upright = 2 * np.minimum(np.roll(last, 1, axis=1), following) + 1
    across_level = np.maximum(2 * np.minimum(*_columns_to(level[level_rows])) - 1, 0)
    row = np.arange(len(mask))
    down_upright = np.maximum(2 * np.abs(row - upright_rows[:, None]) - 1, 0)
    down_level = np.abs(2 * (row - level_rows[:, None]) - 1)
    return np.concatenate([down_upright, down_level]), np.concatenate([across_upright, across_level])


def _columns_to(
    marked: Bool[np.ndarray, "row width"],
) -> tuple[Int[np.ndarray, "row width"], Int[np.ndarray, "row width"]]:
    """Columns back to the last marked one and ahead to the next, around the seam; 0 where marked."""
    width = marked.shape[1]
    column = np.arange(2 * width)
    twice = np.concatenate([marked, marked], axis=1)
    last = np.maximum.accumulate(np.where(twice, column, 0), axis=1)
    following = np.minimum.accumulate(np.where(twice, column, 2 * width)[:, ::-1], axis=1)[:, ::-1]
    return (column - last)[:, width:], (following - column)[:, :width]
