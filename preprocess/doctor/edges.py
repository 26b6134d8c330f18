"""Check of a panorama's left and right edge, which meet behind the viewer unless it is cropped or of another kind."""

from pathlib import Path

import cv2
import numpy as np

COLUMNS = 128
"""Columns that panoramas are reduced to, so that noise and enlargement do not count."""
COMMON = 95
"""Percentile of the differences between neighbouring columns to which the edges are compared."""
MOST_COMMON = 1.5
"""Ratio to that percentile above which the edges do not meet."""
LEAST_LEVELS = 6.0
"""Mean difference of the edges, of 255, below which they always meet."""


def edge_fault(panorama: Path) -> str:
    """States by how much the outer columns differ if they do not meet; "" if they do, or if it is no picture."""
    picture = cv2.imread(str(panorama))
    if picture is None:
        return ""
    columns = cv2.resize(picture, (COLUMNS, COLUMNS // 2), interpolation=cv2.INTER_AREA).astype(np.float32)
    steps = np.abs(np.roll(columns, -1, axis=1) - columns).mean(axis=(0, 2))
    edge, common = float(steps[-1]), float(np.percentile(steps[:-1], COMMON))
    if edge <= max(LEAST_LEVELS, MOST_COMMON * common):
        return ""
    return f"its left and right edge differ by {edge:.0f} of 255 levels, neighbouring columns by up to {common:.0f}"
