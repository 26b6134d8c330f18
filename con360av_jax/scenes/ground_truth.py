"""What a procedural scene holds while a clip of it is seen: which object a viewpoint asks for, where it is, how loud.

Beside scene_000000.mp4 lies scene_000000.json (scenes/synthetic.py); the record "scene_000000/2/1" is segment 2 of it.
(1) asked for   of the objects that the view sees in its middle frame, the one nearest to the view's centre
(2) loudest     the object with the largest mean power at the viewer over the clip's time
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from cattrs.errors import BaseValidationError
from jaxtyping import Bool, Float

from con360av_jax.config.files import problems, structure
from con360av_jax.errors import MetricError
from con360av_jax.scenes.synthetic import TRUTH_VERSION, ObjectTruth, Truth
from con360av_jax.sphere.geometry import direction_from_angles, rotation

_LATE = 0.5  # frames by which a clip may end after its scene


@dataclass(frozen=True, kw_only=True)
class AskedFor:
    """The object that a viewpoint asks for."""

    name: str
    """Its class."""
    directions: Float[np.ndarray, "frame 3"]
    """Where it truly is, unit vectors."""
    radii: Float[np.ndarray, "frame"]
    """Angle from its centre to its edge, rad."""
    in_view: Bool[np.ndarray, "frame"]
    """Whether its centre is inside the view."""


@dataclass(frozen=True, kw_only=True)
class SceneClip:
    """What the truth says of one clip."""

    scene: str
    """Name of its scene."""
    place: str
    """Name of the scene's palette."""
    asked_for: AskedFor | None
    """None where no object is in view in the middle frame."""
    loudest: str
    """Class of equation 2."""


def scene_name(key: str) -> str:
    """The scene of a record's key."""
    return key.rsplit("/", 2)[0]


def scene_clip(
    folder: Path, key: str, start: float, track: Float[np.ndarray, "frame 4"], frames_per_second: float
) -> SceneClip | None:
    """The truth in `folder` about one clip, or None if the folder holds no truth of its scene.

    Args:
        folder: where the scenes' JSON files lie.
        key: of the clip's record.
        start: of the clip in its scene, s.
        track: the clip's viewpoint in each frame (yaw, pitch, horizontal and vertical field of view), rad.
        frames_per_second: of the clip.

    Raises MetricError if it is corrupt, of another version, or of a scene that ends before the clip does.
    """
    path = folder / f"{scene_name(key)}.json"
    if not path.is_file():
        return None
    truth = _read(path)
    times = start + np.arange(len(track)) / frames_per_second
    if times[-1] > truth["seconds"] + _LATE / frames_per_second:
        raise MetricError(
            f"{path}: the scene ends at {truth['seconds']:g} s, record {key} at {times[-1]:g} s: give the truth of "
            "the scenes that the dataset was made of"
        )
    objects = truth["objects"]
    powers = [_power(truth, item, start, times[-1] + 1 / frames_per_second) for item in objects]
    return SceneClip(
        scene=scene_name(key),
        place=truth["place"],
        asked_for=_asked_for(truth, track, times),
        loudest=objects[int(np.argmax(powers))]["class"],
    )


def _asked_for(truth: Truth, track: Float[np.ndarray, "frame 4"], times: Float[np.ndarray, "frame"]) -> AskedFor | None:
    """Equation 1."""
    middle = len(track) // 2
    candidates: list[tuple[float, AskedFor]] = []
    for item in truth["objects"]:
        directions = _directions(truth, item, times)
        radii = np.radians(np.interp(times, truth["frame_times_s"], item["angular_radius_deg"]))
        seen = [in_view(direction, viewpoint) for direction, viewpoint in zip(directions, track, strict=True)]
        if seen[middle]:
            centre = direction_from_angles(track[middle, 0], track[middle, 1])
            asked = AskedFor(name=item["class"], directions=directions, radii=radii, in_view=np.array(seen))
            candidates.append((float(directions[middle] @ centre), asked))
    return max(candidates, key=lambda pair: pair[0])[1] if candidates else None


def in_view(direction: Float[np.ndarray, "3"], viewpoint: Float[np.ndarray, "4"]) -> bool:
    """Whether a view sees a direction (sphere/geometry.py, equation 5)."""
    yaw, pitch, *fields = (float(angle) for angle in viewpoint)
    x, y, z = direction @ rotation(yaw, pitch)
    return bool(z > 0 and all(abs(side) <= z * np.tan(fov / 2) for side, fov in zip((x, y), fields, strict=True)))


def _directions(truth: Truth, item: ObjectTruth, times: Float[np.ndarray, "frame"]) -> Float[np.ndarray, "frame 3"]:
    """Between the truth's own frames along the chord, whose middle differs by less than rounding of the truth."""
    known = direction_from_angles(np.radians(item["lon_deg"]), np.radians(item["lat_deg"]))
    between = np.stack([np.interp(times, truth["frame_times_s"], axis) for axis in known.T], axis=1)
    return between / np.linalg.norm(between, axis=1, keepdims=True)


def _power(truth: Truth, item: ObjectTruth, start: float, end: float) -> float:
    times = np.array(truth["frame_times_s"])
    within = (times >= start - 1e-6) & (times < end - 1e-6)
    return float(np.square(np.array(item["loudness"])[within]).mean()) if within.any() else 0.0


@lru_cache(maxsize=8)
def _read(path: Path) -> Truth:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MetricError(f"{path} cannot be read as truth ({error}): write the scenes again") from error
    version = data.get("version") if isinstance(data, dict) else None
    if version != TRUTH_VERSION:
        raise MetricError(f"{path} has version {version}, this program reads {TRUTH_VERSION}: write the scenes again")
    try:
        truth: Truth = structure(data, Truth)
    except BaseValidationError as error:
        raise MetricError(f"{path} is corrupt: {problems(error)}; write the scenes again") from error
    frames = len(truth["frame_times_s"])
    rows = [len(row) for item in truth["objects"] for name, row in item.items() if name not in ("class", "onsets_s")]  # pyright: ignore[reportArgumentType]
    if not truth["objects"] or not frames or any(row != frames for row in rows):
        raise MetricError(
            f"{path} is corrupt: {len(truth['objects'])} objects with rows of {sorted(set(rows))}, "
            f"wanted {frames} frames each; write the scenes again"
        )
    return truth
