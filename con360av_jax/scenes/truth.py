"""Ground truth of a procedural scene, as it stands beside its video in a JSON file."""

from typing import NotRequired, TypedDict

import numpy as np
from jaxtyping import Float

from con360av_jax.scenes.scene import Scene

VERSIONS = (1, 2)
"""Versions of scenes, and of their ground truth."""
BY_FRAME = ("lon_deg", "lat_deg", "angular_radius_deg", "distance_m", "loudness")
"""Keys of an object's truth that hold one value per frame."""
ObjectTruth = TypedDict(
    "ObjectTruth",
    {
        "class": str,
        "colour": NotRequired[str],
        "onsets_s": list[float],
        "lon_deg": list[float],
        "lat_deg": list[float],
        "angular_radius_deg": list[float],
        "distance_m": list[float],
        "loudness": list[float],
    },
)
"""Ground truth of one object, with its colour since version 2. Per frame: lon_deg, positive to the right of
the image centre; lat_deg, positive up; angular_radius_deg, from centre to edge; loudness, RMS of its sound at the
viewer until the next frame."""


class Truth(TypedDict):
    """Ground truth of a clip: its objects and their positions and loudness by frame."""

    version: int
    split: NotRequired[str]
    """Split of the scene; since version 2."""
    caption: str
    seconds: float
    place: str
    frame_times_s: list[float]
    objects: list[ObjectTruth]


def scene_truth(
    scene: Scene, sources: list[Float[np.ndarray, "sample"]], times: Float[np.ndarray, "frame"], sample_rate: int
) -> Truth:
    """Ground truth of all objects at `times`; `sources` contains one `object_sound` per object."""
    bounds = np.append(np.round(times * sample_rate).astype(int), round(scene.seconds * sample_rate))
    objects: list[ObjectTruth] = []
    for item, source in zip(scene.objects, sources, strict=True):
        longitude, latitude = item.motion.angles(times)
        pieces = [source[first:last] for first, last in zip(bounds[:-1], bounds[1:], strict=True)]
        known: ObjectTruth = {
            "class": item.name,
            "onsets_s": _rounded(item.onsets, 5),
            "lon_deg": _rounded(np.degrees(longitude)),
            "lat_deg": _rounded(np.degrees(latitude)),
            "angular_radius_deg": _rounded(np.degrees(item.angular_radius(times, scene.seconds))),
            "distance_m": _rounded(item.motion.distance(times, scene.seconds)),
            "loudness": _rounded(np.array([np.sqrt(np.mean(piece**2)) for piece in pieces]), 5),
        }
        if scene.version > 1:
            known["colour"] = item.colour
        objects.append(known)
    truth: Truth = {
        "version": scene.version,
        "caption": scene.caption,
        "seconds": scene.seconds,
        "place": scene.background.palette,
        "frame_times_s": _rounded(times, 5),
        "objects": objects,
    }
    if scene.version > 1:
        truth["split"] = scene.split
    return truth


def _rounded(values: Float[np.ndarray, "value"], digits: int = 3) -> list[float]:
    return [round(float(value), digits) for value in values]
