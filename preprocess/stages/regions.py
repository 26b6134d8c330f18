"""Salient regions of one map on the sphere, connected across the seam and the poles, as directions and angles.

(1) salient: S > mean + deviation, both weighted by solid angle A
(2) a peak's region: the connected part around it of S > max(mean + deviation, S_peak / 2), unless that holds a higher
    peak; neighbours touch by side or corner; so do the first and last column, and a pole's opposite pixels
(3) centre = normalise(sum S A d) over the region (the circular mean on the sphere), mass = sum S A
(4) field of view = twice the largest angle to a side of the region's box around its centre, within limits
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from con360av_jax.sphere.geometry import angles_from_direction, directions, rotation, solid_angle_weights

# A region that surrounds the viewer has no centre: below this length of the mean direction, its peak is used instead.
SMALLEST_RESULTANT = 0.5
# Weight of the preferences that break ties: the horizon over the poles, ahead over behind.
EVEN_CHOICE = 1e-3
# In place of a deviation of 0.
TINY = 1e-30
# Share of its peak's saliency at which a region ends, so that neighbouring peaks become regions of their own.
PEAK_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Region:
    """A salient place."""

    direction: Float64[np.ndarray, "3"]
    field_of_view: float
    """Field of view, horizontally and vertically, rad."""
    mass: float
    """Integral of the saliency, sr."""
    peak: float = 0.0
    """Highest saliency above the mean, in standard deviations; 0 for a place that is no region of equation (2)."""


def components(inside: Bool[np.ndarray, "height width"]) -> Int[np.ndarray, "height width"]:
    """Labels 1, 2, .. of connected parts on the sphere, 0 outside; neighbours are defined in equation (2)."""
    count, labels = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)
    half = inside.shape[1] // 2
    left, right = labels[:, 0], labels[:, -1]
    touching = [(left, right), (left[1:], right[:-1]), (left[:-1], right[1:])]
    touching += [(row, np.roll(row, half + shift)) for row in (labels[0], labels[-1]) for shift in (-1, 0, 1)]
    pairs = np.concatenate([np.stack(pair, axis=1) for pair in touching])
    pairs = pairs[(pairs > 0).all(axis=1)]
    graph = coo_array((np.ones(len(pairs), bool), tuple(pairs.T)), shape=(count, count))
    _, names = connected_components(graph, directed=False)
    # The background is node 0, touches nothing and so keeps the first name.
    return names[labels]


def find_regions(
    saliency: Float[np.ndarray, "height width"], count: int, limits: tuple[float, float]
) -> tuple[Region, ...]:
    """Exactly `count` regions, the heaviest first, each `apart` from those before it.

    If there are fewer such regions, the highest remaining places follow, with the smallest field of view and peak 0.

    Args:
        saliency: non-negative map of any scale.
        count: number of regions.
        limits: smallest and largest field of view, rad.
    """
    height, width = saliency.shape
    weights = solid_angle_weights(height, width)
    mean = np.average(saliency, weights=weights)
    deviation = np.sqrt(np.average((saliency - mean) ** 2, weights=weights))
    found = [
        replace(
            _region(saliency, weights, inside, limits),
            peak=float((saliency[inside].max() - mean) / max(deviation, TINY)),
        )
        for inside in summits(saliency, float(mean + deviation))
    ]
    chosen: list[Region] = []
    for region in sorted(found, key=lambda region: -region.mass):
        if len(chosen) < count and all(apart(region, other) for other in chosen):
            chosen.append(region)
    while len(chosen) < count:
        chosen.append(_next_peak(saliency, weights, chosen, limits))
    return tuple(chosen)


def summits(saliency: Float[np.ndarray, "height width"], floor: float) -> Iterator[Bool[np.ndarray, "height width"]]:
    """Regions by equation (2), the highest peak first; they do not overlap."""
    around = np.pad(saliency.astype(np.float32), ((0, 0), (1, 1)), mode="wrap")
    highest = cv2.dilate(around, np.ones((3, 3), np.uint8))[:, 1:-1]
    peaks = np.flatnonzero((around[:, 1:-1] >= highest) & (saliency > floor))
    taken = np.zeros(saliency.size, bool)
    for peak in peaks[np.argsort(-saliency.flat[peaks], kind="stable")]:
        if taken[peak]:
            continue
        labels = components(saliency > max(floor, PEAK_SHARE * saliency.flat[peak])).ravel()
        inside = labels == labels[peak]
        # A peak that is connected to a higher one above this level is part of its region.
        if not taken[inside].any():
            taken |= inside
            yield inside.reshape(saliency.shape)


def angle_between(first: Float[np.ndarray, "*any 3"], second: Float[np.ndarray, "3"]) -> Float[np.ndarray, "*any"]:
    """Angle between unit vectors, rad."""
    return np.arccos(np.clip(first @ second, -1, 1))


def apart(one: Region, other: Region) -> bool:
    """Whether the directions of two regions differ by at least half the larger field of view."""
    return bool(angle_between(one.direction, other.direction) >= max(one.field_of_view, other.field_of_view) / 2)


def _region(
    saliency: Float[np.ndarray, "height width"],
    weights: Float[np.ndarray, "height width"],
    inside: Bool[np.ndarray, "height width"],
    limits: tuple[float, float],
) -> Region:
    """Centre, mass and field of view of a region, equations (3) and (4)."""
    rays, level, area = directions(*saliency.shape)[inside], saliency[inside], weights[inside]
    share = level * area
    mean = share @ rays / share.sum()
    length = np.linalg.norm(mean)
    centre = mean / length if length > SMALLEST_RESULTANT else rays[level.argmax()]
    yaw, pitch = angles_from_direction(centre)
    local = rays @ rotation(float(yaw), float(pitch))
    box = np.abs(np.arctan2(local[:, :2], local[:, 2:])).max()
    return Region(direction=centre, field_of_view=float(np.clip(2 * box, *limits)), mass=float(level @ area))


def _next_peak(
    saliency: Float[np.ndarray, "height width"],
    weights: Float[np.ndarray, "height width"],
    chosen: list[Region],
    limits: tuple[float, float],
) -> Region:
    """The highest place apart from the chosen regions or, if they cover the sphere, the place farthest from them."""
    rays = directions(*saliency.shape)
    room = np.full(saliency.shape, np.inf)
    for region in chosen:
        distance = angle_between(rays, region.direction) - max(region.field_of_view, limits[0]) / 2
        room = np.minimum(room, distance)
    level = np.hypot(rays[..., 0], rays[..., 2])
    score = saliency + EVEN_CHOICE * max(float(saliency.max()), 1e-9) * (level + EVEN_CHOICE * rays[..., 2])
    score = np.where(room >= 0, score, -np.inf) if (room >= 0).any() else room
    place = np.unravel_index(score.argmax(), score.shape)
    near = angle_between(rays, rays[place]) <= limits[0] / 2
    mass = float((saliency * weights)[near].sum())
    return Region(direction=rays[place], field_of_view=limits[0], mass=mass)
