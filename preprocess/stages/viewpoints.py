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

    def __post_init__(self):
        require(self.count > 0, f"viewpoints is {self.count}; ask for at least 1")
        require(
            0 < self.smallest_fov <= self.largest_fov <= 170,
            f"the field of view's limits are {self.smallest_fov} to {self.largest_fov} degrees; keep within 0 to 170",
        )

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest field of view, rad."""
        return float(np.radians(self.smallest_fov)), float(np.radians(self.largest_fov))


def find_viewpoints(
    saliency: Float[np.ndarray, "frame height width"], frames_per_second: float, settings: ViewpointSettings
) -> tuple[Float32[np.ndarray, "frame 4"], ...]:
    """Exactly `settings.count` tracks of yaw, pitch, horizontal and vertical field of view, rad; the heaviest first."""
    if not settings.moving:
        still = find_regions(saliency.mean(axis=0), settings.count, settings.limits)
        return tuple(_track([region] * len(saliency), 0.0) for region in still)
    offered = [list(find_regions(frame, settings.count + SPARE_REGIONS, settings.limits)) for frame in saliency]
    sigma = settings.smoothing_seconds * frames_per_second
    paths = [_take_best_path(offered) for _ in range(settings.count)]
    return tuple(_track(path, sigma) for path in paths)


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
