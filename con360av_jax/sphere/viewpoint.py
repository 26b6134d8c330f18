"""Viewpoints and trajectories in degrees, converted to tracks in radians.

Yaw is positive to the right, pitch positive up. A track is (frame, 4): yaw, pitch, horizontal and vertical field of
view in radians, float32.
"""

import csv
import math
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from con360av_jax.errors import GeometryError
from con360av_jax.runtime.text_files import read_text

Track: TypeAlias = Float[np.ndarray, "frame 4"]

_RANGES = {"yaw": (-180.0, 180.0), "pitch": (-90.0, 90.0)}
_LARGEST_FOV = 170.0  # degrees; beyond it a perspective view is nearly all border


@dataclass(frozen=True, kw_only=True)
class Viewpoint:
    """One direction and field of view, in degrees.

    Raises GeometryError, naming the value, when one lies outside its range.
    """

    yaw: float = 0.0
    """Longitude, positive to the right of the panorama's centre, -180 to 180."""
    pitch: float = 0.0
    """Latitude, positive above the horizon, -90 to 90."""
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
        """Parses `yaw=30,pitch=0,fov=90`; omitted names keep their defaults.

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


@dataclass(frozen=True)
class Trajectory:
    """A moving viewpoint given by key positions in order of time.

    Raises GeometryError if there is none or times do not increase.
    """

    times: tuple[float, ...]
    """Times of the key positions, s."""
    viewpoints: tuple[Viewpoint, ...]

    def __post_init__(self):
        if not self.viewpoints:
            raise GeometryError("a trajectory has no key position; give at least one viewpoint")
        if any(after <= before for before, after in zip(self.times, self.times[1:], strict=False)):
            raise GeometryError(f"times must increase from line to line, but are {list(self.times)}")

    def track(self, frames: int, frames_per_second: float, start: float = 0.0) -> Track:
        """Viewpoints at start + i / frames_per_second seconds for frame i, rad.

        All values change linearly between key positions, yaw the short way around (also across +-180), and are constant
        before the first and after the last.
        """
        positions = np.concatenate([viewpoint.track(1) for viewpoint in self.viewpoints]).astype(np.float64)
        positions[:, 0] = np.unwrap(positions[:, 0])
        moments = start + np.arange(frames) / frames_per_second
        track = np.stack([np.interp(moments, self.times, column) for column in positions.T], axis=1)
        beyond = np.abs(track[:, 0]) > np.float32(np.pi)
        track[beyond, 0] = np.angle(np.exp(1j * track[beyond, 0]))
        return track.astype(np.float32)


def read_trajectory(csv_path: str | Path, frames: int, frames_per_second: float) -> Track:
    """Reads a trajectory from CSV: columns time (s), yaw, pitch, fov (degrees) and optionally vertical_fov.

    Each line is one key position; see `Trajectory.track` for interpolation.

    Raises GeometryError for a missing or empty file, a missing or unknown column, a value that is not a number or out
    of range, and times that do not increase.
    """
    (trajectory,) = read_trajectories(csv_path, ()).values()
    return trajectory.track(frames, frames_per_second)


def read_trajectories(csv_path: str | Path, names: tuple[str, ...]) -> dict[tuple[str, ...], Trajectory]:
    """Reads several trajectories from one CSV, keyed by the values in the columns `names`, in order of first lines.

    The other columns and the errors are those of `read_trajectory`; lines of different trajectories may alternate.
    """
    path, rows = Path(csv_path), dict[tuple[str, ...], list[tuple[float, Viewpoint]]]()
    for name, time, viewpoint in _read_rows(path, names):
        rows.setdefault(name, []).append((time, viewpoint))
    trajectories: dict[tuple[str, ...], Trajectory] = {}
    for name, positions in rows.items():
        times, viewpoints = zip(*positions, strict=True)
        try:
            trajectories[name] = Trajectory(times, viewpoints)
        except GeometryError as error:
            raise GeometryError(f"{': '.join([str(path), *filter(None, [', '.join(name)])])}: {error}") from error
    return trajectories


def _read_rows(path: Path, names: tuple[str, ...]) -> list[tuple[tuple[str, ...], float, Viewpoint]]:
    """Returns name, time and viewpoint of every line."""
    needed = (*names, "time", "yaw", "pitch", "fov")
    reader = csv.reader(StringIO(read_text(path, GeometryError), newline=""))
    try:
        cells = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except csv.Error as error:
        raise GeometryError(f"{path}: cannot be read as a trajectory ({error}); give a CSV file") from error
    (_, header), *lines = cells or [(1, list[str]())]
    if not set(needed) <= set(header) <= {*needed, "vertical_fov"} or len(set(header)) != len(header):
        raise GeometryError(f"{path}: columns {header}; the first line must read {','.join(needed)}[,vertical_fov]")
    if not lines:
        raise GeometryError(f"{path}: has no line below its header; give at least one viewpoint")
    rows: list[tuple[tuple[str, ...], float, Viewpoint]] = []
    for number, line in lines:
        where = f"{path}: line {number}"
        if len(line) != len(header):
            raise GeometryError(f"{where}: {len(line)} values for the columns {','.join(header)}; give one for each")
        given = dict(zip(header, line, strict=True))
        called = tuple(given.pop(name) for name in names)
        if not all(called):
            raise GeometryError(f"{where}: {' and '.join(names)} must not be empty; name them")
        values = {name: _number(cell, f"{where}: {name}") for name, cell in given.items()}
        time = values.pop("time")
        try:
            rows.append((called, time, Viewpoint(**values)))
        except GeometryError as error:
            raise GeometryError(f"{where}: {error}") from error
    return rows


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
