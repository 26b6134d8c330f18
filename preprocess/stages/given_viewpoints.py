"""Stage "viewpoints" without a search: the user gives trajectories for every clip in one CSV file.

Columns clip, viewpoint, time, yaw, pitch, fov and optionally vertical_fov: two names, seconds from the start of the
clip, degrees. Each line is one key position; a viewpoint with one line stands still.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from con360av_jax.config.settings import ClipConfig
from con360av_jax.errors import DatasetError
from con360av_jax.sphere.viewpoint import Trajectory, read_trajectories
from preprocess.stages.segment import Window


@dataclass(frozen=True)
class GivenViewpoints:
    """Trajectories of the user, used in place of `find_viewpoints`."""

    path: Path
    """The CSV file."""
    trajectories: Mapping[str, tuple[Trajectory, ...]]
    """Trajectories by clip name, in the order in which the file first names them."""

    @classmethod
    def read(cls, path: Path) -> "GivenViewpoints":
        """Reads the CSV file; raises GeometryError, with the line number, if it is missing, empty or malformed."""
        trajectories: dict[str, tuple[Trajectory, ...]] = {}
        for (clip, _), trajectory in read_trajectories(path, ("clip", "viewpoint")).items():
            trajectories[clip] = (*trajectories.get(clip, ()), trajectory)
        return cls(path, trajectories)

    def __call__(self, window: Window, clip: ClipConfig) -> tuple[Float32[np.ndarray, "frame 4"], ...]:
        """One track per viewpoint of the window's clip: yaw, pitch, horizontal and vertical field of view, rad.

        Raises DatasetError if the file has no line for the clip.
        """
        given = self.trajectories.get(window.clip.name)
        if given is None:
            raise DatasetError(
                f"{self.path}: has no viewpoint of clip {window.clip.name!r}; add a line that begins with its name"
            )
        return tuple(one.track(clip.frames, clip.frames_per_second, window.start) for one in given)
