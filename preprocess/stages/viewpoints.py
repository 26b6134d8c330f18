"""Stage "viewpoints": tracks of yaw, pitch and field of view over a segment that follow its salient regions.

A moving track is the path through the regions of all frames that gathers most saliency and travels least:
    score(path) = sum_t mass_t / largest mass - travel_cost * sum_t angle(d_t, d_{t+1})^2
found exactly by dynamic programming; a region that one track uses is not offered to the next.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from scipy.ndimage import gaussian_filter1d

from con360av_jax.config.settings import require
from con360av_jax.errors import MediaError
from con360av_jax.sphere.geometry import angles_from_direction
from preprocess.stages.regions import Region, angle_between, find_regions

# Candidate regions per frame beyond the wanted number: with fewer, a track jumps where its region is no candidate.
SPARE_REGIONS = 5
# Cost of one squared radian of travel between two frames, in units of the heaviest region's mass.
TRAVEL_COST = 10.0


@dataclass(frozen=True, kw_only=True)
class ViewpointSettings:
    """Settings of the search for viewpoints."""

    count: int = 3
    """Number of viewpoints per segment."""
    moving: bool = False
    """Whether viewpoints follow their regions; otherwise they stay on the regions of the segment's mean saliency."""
    smallest_fov: float = 45.0
    """Smallest field of view, degrees."""
    largest_fov: float = 100.0
    """Largest field of view, degrees."""
    smoothing_seconds: float = 0.5
    """Standard deviation of the smoothing of moving viewpoints, s."""
    min_peak: float = 0.0
    """Smallest peak of a viewpoint's region (`Region.peak`, its mean over the frames of a moving one)."""

    def __post_init__(self):
        require(self.count > 0, f"viewpoints is {self.count}; ask for at least 1")
        require(self.min_peak >= 0, f"min_peak is {self.min_peak}; give 0 or more")
        require(
            0 < self.smallest_fov <= self.largest_fov <= 170,
            f"the field of view's limits are {self.smallest_fov} to {self.largest_fov} degrees; keep within 0 to 170",
        )

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest field of view, rad."""
        return float(np.radians(self.smallest_fov)), float(np.radians(self.largest_fov))


@dataclass(frozen=True)
class Viewpoint:
    """A track and how salient it is."""

    track: Float32[np.ndarray, "frame 4"]
    """Yaw, pitch, horizontal and vertical field of view, rad."""
    peak: float
    """Peak of its region, see `Region`; the mean over the frames of a moving one. 0 for one that only fills up."""


def find_viewpoints(
    saliency: Float[np.ndarray, "frame height width"], frames_per_second: float, settings: ViewpointSettings
) -> tuple[Viewpoint, ...]:
    """The viewpoints of a segment, the heaviest first: `settings.count`, without those below `settings.min_peak`.

    Raises MediaError if none is left.
    """
    found = _all_viewpoints(saliency, frames_per_second, settings)
    if left := tuple(viewpoint for viewpoint in found if viewpoint.peak >= settings.min_peak):
        return left
    highest = max(viewpoint.peak for viewpoint in found)
    raise MediaError(
        f"no viewpoint has a peak of {settings.min_peak:g} standard deviations of the saliency above its mean, the "
        f"highest has {highest:.2g}: lower --min-peak to keep it"
    )


def _all_viewpoints(
    saliency: Float[np.ndarray, "frame height width"], frames_per_second: float, settings: ViewpointSettings
) -> tuple[Viewpoint, ...]:
    if not settings.moving:
        still = find_regions(saliency.mean(axis=0), settings.count, settings.limits)
        return tuple(Viewpoint(_track([region] * len(saliency), 0.0), region.peak) for region in still)
    offered = [list(find_regions(frame, settings.count + SPARE_REGIONS, settings.limits)) for frame in saliency]
    sigma = settings.smoothing_seconds * frames_per_second
    paths = [_take_best_path(offered) for _ in range(settings.count)]
    return tuple(Viewpoint(_track(path, sigma), float(np.mean([region.peak for region in path]))) for path in paths)


def _take_best_path(offered: list[list[Region]]) -> list[Region]:
    """The path of the highest score, one region per frame; removes its regions from `offered`."""
    largest = max(region.mass for frame in offered for region in frame) or 1.0
    scores = np.array([region.mass / largest for region in offered[0]])
    origins: list[np.ndarray] = []
    for before, frame in zip(offered[:-1], offered[1:], strict=True):
        rays = np.stack([region.direction for region in before])
        travel = np.stack([angle_between(rays, region.direction) for region in frame])
        total = scores - TRAVEL_COST * travel**2
        origins.append(total.argmax(axis=1))
        scores = total.max(axis=1) + np.array([region.mass / largest for region in frame])
    steps = [int(scores.argmax())]
    for origin in reversed(origins):
        steps.append(int(origin[steps[-1]]))
    return [frame.pop(step) for frame, step in zip(offered, reversed(steps), strict=True)]


def _track(path: list[Region], sigma: float) -> Float32[np.ndarray, "frame 4"]:
    """Directions and fields of view smoothed over `sigma` frames; directions as vectors, so that no angle wraps."""
    rays = np.stack([region.direction for region in path])
    fov = np.array([region.field_of_view for region in path])
    if sigma > 0:
        rays = gaussian_filter1d(rays, sigma, axis=0, mode="nearest")
        fov = gaussian_filter1d(fov, sigma, mode="nearest")
    yaw, pitch = angles_from_direction(rays / np.linalg.norm(rays, axis=1, keepdims=True))
    return np.stack([yaw, pitch, fov, fov], axis=1).astype(np.float32)
