"""Frames as a player shows them: turned and mirrored by the display matrix, with square pixels.

A display matrix (a, b, u, c, d, v, x, y, w) in fixed point moves a stored pixel at column p, row q to
    column a p + c q,   row b p + d q
of the shown frame (ISO/IEC 14496-12, 6.2.2). The sample aspect ratio is the width of a stored pixel over its height.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction
from math import hypot
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from einops import rearrange
from jaxtyping import UInt8

from con360av_jax.errors import MediaError

# Cosine of the largest angle (1 degree) by which a display matrix may miss a quarter turn; ffmpeg has the same limit.
STRAIGHT = 0.99985
# Pixels more oblong than this are taken for a corrupt header: panoramas squeezed into a square have 2, into half of
# that, 4.
MOST_OBLONG = 8


@dataclass(frozen=True)
class Turn:
    """Quarter turns and mirrorings: an exchange of rows and columns, then reversals of their order."""

    exchanged: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    def of(self, image: UInt8[np.ndarray, "row column 3"]) -> UInt8[np.ndarray, "shown_row shown_column 3"]:
        """The turned image, a view of the same memory."""
        image = rearrange(image, "row column rgb -> column row rgb") if self.exchanged else image
        return image[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]


def turn_of(frame: av.VideoFrame, name: str | Path) -> Turn:
    """Turn by the display matrix of a decoded frame.

    Raises:
        MediaError: the matrix turns by another angle than quarter turns, or shears.
    """
    side = side_data(frame).get(Type.DISPLAYMATRIX)
    if side is None:
        return Turn()
    a, b, _, c, d, *_ = struct.unpack_from("=9i", bytes(side))
    across, down = hypot(a, b), hypot(c, d)
    if not across or not down:
        # Some programs write zeros for "not turned", and players show such files as they are stored.
        return Turn()
    straight, exchanged = abs(a) / across, abs(b) / across
    if min(max(straight, exchanged), max(abs(c), abs(d)) / down) < STRAIGHT or (straight > exchanged) != (
        abs(d) > abs(c)
    ):
        raise MediaError(
            f"{name}: its display matrix turns or shears the video by other angles than 90, 180 and 270 degrees; "
            "encode it anew as it is shown: ffmpeg -i IN OUT.mp4"
        )
    if straight > exchanged:
        return Turn(False, rows_reversed=d < 0, columns_reversed=a < 0)
    return Turn(True, rows_reversed=b < 0, columns_reversed=c < 0)


def shown_size(stream: VideoStream, frame: av.VideoFrame | None, name: str | Path) -> tuple[int, int]:
    """Height and width of the stream's frames as shown with square pixels; no side is shorter than stored.

    Args:
        stream: video stream.
        frame: its first decoded frame, which has the display matrix; None if it has none.
        name: file, for the message.

    Raises:
        MediaError: as `turn_of`; or the pixels are too oblong to be true.
    """
    height, width = stream.codec_context.height, stream.codec_context.width
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if not 1 / MOST_OBLONG <= aspect <= MOST_OBLONG:
        raise MediaError(
            f"{name}: its pixels are said to be {float(aspect):.3g} times as wide as high, which cannot be; state "
            "their shape anew: ffmpeg -i IN -vf setsar=1 OUT.mp4"
        )
    height, width = (height, round(width * aspect)) if aspect > 1 else (round(height / aspect), width)
    return (width, height) if frame is not None and turn_of(frame, name).exchanged else (height, width)


def rgb(frame: av.VideoFrame, name: str | Path, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """A decoded frame turned as it is shown and stretched to (height, width).

    Raises:
        MediaError: the decoder marked it as corrupt; or as `turn_of`.
    """
    if frame.is_corrupt:
        raise MediaError(f"{name}: the frame at {frame.time or 0:.2f} s is corrupt; give an intact file")
    turn = turn_of(frame, name)
    rows, columns = (width, height) if turn.exchanged else (height, width)
    shrinking = rows <= frame.height and columns <= frame.width
    interpolation = Interpolation.AREA if shrinking else Interpolation.BICUBIC
    return turn.of(frame.reformat(columns, rows, "rgb24", interpolation=interpolation).to_ndarray())


def side_data(frame: av.VideoFrame) -> SideDataContainer:
    """Side data of a decoded frame, by type."""
    # PyAV's stub types this as a dictionary by name; what iteration yields depends on PyAV's version.
    return cast(SideDataContainer, cast(object, frame.side_data))
