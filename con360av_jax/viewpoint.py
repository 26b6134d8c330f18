"""Where a view looks, in a user's degrees, and how that moves over time; as arrays both become radians.

Yaw is positive to the right, pitch positive up. A track is (frame, 4): yaw, pitch, horizontal and vertical field of
view in radians, float32.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from con360av_jax.errors import GeometryError

Track: TypeAlias = Float[np.ndarray, "frame 4"]

_RANGES = {"yaw": (-180.0, 180.0), "pitch": (-90.0, 90.0)}
_LARGEST_FOV = 170.0  # degrees; beyond it a flat picture is nearly all border


@dataclass(frozen=True, kw_only=True)
class Viewpoint:
    """One direction and field of view, in degrees.

    Raises GeometryError, naming the value, when one lies outside its range.
    """

    yaw: float = 0.0
    """To the right of the panorama's centre, -180 to 180."""
    pitch: float = 0.0
    """Above the horizon, -90 to 90."""
    fov: float = 90.0
    """Horizontal field of view, above 0 and at most 170."""
    vertical_fov: float | None = None
    """Vertical field of view; None means the same as `fov` (a square view)."""

    def __post_init__(self):
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise GeometryError(f"{name}={value:g} is out of range: give degrees from {low:g} to {high:g}")
        for name, value in (("fov", self.fov), ("vertical_fov", self.vertical_fov)):
            if value is not None and not 0 < value <= _LARGEST_FOV:
                raise GeometryError(
                    f"{name}={value:g} is out of range: give degrees above 0 and at most {_LARGEST_FOV:g}"
                )

    @classmethod
    def parse(cls, text: str) -> "Viewpoint":
        """A viewpoint from the command line: `yaw=30,pitch=0,fov=90`; names left out keep their defaults.

        Raises GeometryError for an unknown or repeated name, a value that is no number, or one out of range.
        """
        names = [field.name for field in fields(cls)]
        values: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in names or name in values:
                raise GeometryError(
                    f"viewpoint {text!r}: cannot use {part.strip()!r}; give each of {names} at most once"
                )
            values[name] = _number(value, f"viewpoint {text!r}: {name}")
        return cls(**values)

    def track(self, frames: int) -> Track:
        """The same viewpoint in each of `frames` frames, rad."""
        vertical = self.fov if self.vertical_fov is None else self.vertical_fov
        row = np.deg2rad([self.yaw, self.pitch, self.fov, vertical]).astype(np.float32)
        return np.repeat(row[None], frames, axis=0)


def read_trajectory(csv_path: str | Path, frames: int, frames_per_second: float) -> Track:
    """A viewpoint that moves: a CSV file with the columns time (s), yaw, pitch, fov (degrees) and, if it differs from
    fov, vertical_fov; one line per key position.

    Between two key positions all values change linearly, yaw the short way around (also across +-180); before the
    first and after the last they stay. Frame i is seen at i / frames_per_second seconds.

    Raises GeometryError for a missing or empty file, a missing or unknown column, a value that is no number or out of
    range, and times that do not increase.
    """
    times, viewpoints = _read_rows(Path(csv_path))
    if any(after <= before for before, after in zip(times, times[1:], strict=False)):
        raise GeometryError(f"{csv_path}: times must increase from line to line, but are {times}")
    positions = np.concatenate([viewpoint.track(1) for viewpoint in viewpoints]).astype(np.float64)
    positions[:, 0] = np.unwrap(positions[:, 0])
    moments = np.arange(frames) / frames_per_second
    track = np.stack([np.interp(moments, times, column) for column in positions.T], axis=1)
    beyond = np.abs(track[:, 0]) > np.float32(np.pi)
    track[beyond, 0] = np.angle(np.exp(1j * track[beyond, 0]))
    return track.astype(np.float32)


def _read_rows(path: Path) -> tuple[list[float], list[Viewpoint]]:
    needed = ("time", "yaw", "pitch", "fov")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = [[cell.strip() for cell in row] for row in csv.reader(file) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GeometryError(f"{path}: cannot be read as a trajectory ({error}); give a CSV file") from error
    if not set(needed) <= set(header) <= {*needed, "vertical_fov"} or len(set(header)) != len(header):
        raise GeometryError(f"{path}: columns {header}; the first line must read {','.join(needed)}[,vertical_fov]")
    if not lines:
        raise GeometryError(f"{path}: has no line below its header; give at least one viewpoint")
    times: list[float] = []
    viewpoints: list[Viewpoint] = []
    for number, line in enumerate(lines, start=2):
        values = _numbers(header, line, f"{path}: line {number}")
        times.append(values.pop("time"))
        try:
            viewpoints.append(Viewpoint(**values))
        except GeometryError as error:
            raise GeometryError(f"{path}: line {number}: {error}") from error
    return times, viewpoints


def _numbers(names: Sequence[str], cells: Sequence[str], where: str) -> dict[str, float]:
    if len(cells) != len(names):
        raise GeometryError(f"{where}: {len(cells)} values for the columns {','.join(names)}; give one for each")
    return {name: _number(cell, f"{where}: {name}") for name, cell in zip(names, cells, strict=True)}


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise GeometryError(
            f"{where}={text!r} is not a number; give one, for example {where.split()[-1]}=30"
        ) from error
    if not math.isfinite(value):
        raise GeometryError(f"{where}={text!r} is not finite; give a plain number")
    return value
