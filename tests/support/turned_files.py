"""Display matrices of all turns and mirrorings, and a picture that shows which of them was applied."""

import numpy as np

ONE = 1 << 16


def display_matrix(a: float, b: float, c: float, d: float) -> tuple[int, ...]:
    """The nine numbers that move column p, row q to column a p + c q, row b p + d q."""
    return round(a * ONE), round(b * ONE), 0, round(c * ONE), round(d * ONE), 0, 0, 0, 1 << 30


def corners(height: int = 32, width: int = 64) -> np.ndarray:
    """Red and green above, blue and white below."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2, 0] = picture[: height // 2, width // 2 :, 1] = 220
    picture[height // 2 :, : width // 2, 2] = picture[height // 2 :, width // 2 :] = 220
    return picture


def quarters(picture: np.ndarray) -> np.ndarray:
    """Colour in the middle of each quarter, rounded to what `corners` has: which quarter lies where."""
    height, width = picture.shape[:2]
    rows, columns = ([size // 4, size - 1 - size // 4] for size in (height, width))
    return (picture[np.ix_(rows, columns)] > 110) * 220


# How a player moves pixels, and the numpy operation that undoes it.
TURNS = {
    "90": ((0, 1, -1, 0), lambda shown: np.rot90(shown, 1)),
    "180": ((-1, 0, 0, -1), lambda shown: np.rot90(shown, 2)),
    "270": ((0, -1, 1, 0), lambda shown: np.rot90(shown, 3)),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda shown: np.swapaxes(shown, 0, 1)),
    "transposed, then 180": ((0, -1, -1, 0), lambda shown: np.rot90(np.swapaxes(shown, 0, 1), 2)),
}
