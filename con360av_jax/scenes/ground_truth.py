"""Ground truth of a clip of a procedural scene: the requested object, its position, and the loudest object.

The ground truth of scene_000000.mp4 is scene_000000.json (scenes/synthetic.py); the record "scene_000000/2/1" is
segment 2 of it.
(1) requested   of the objects in view in the middle frame, the one nearest to the centre of the view
(2) loudest     the object with the largest mean power at the viewer during the clip
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from cattrs.errors import BaseValidationError
from jaxtyping import Bool, Float

from con360av_jax.config.files import problems, structure
from con360av_jax.data.schema import recording_of
from con360av_jax.errors import MetricError
from con360av_jax.scenes.captions_2 import Said, describe_view
from con360av_jax.scenes.timbres import AMBIENCE
from con360av_jax.scenes.truth import BY_FRAME, VERSIONS, ObjectTruth, Truth
from con360av_jax.scenes.views import elevations
from con360av_jax.sphere.geometry import angles_from_direction, direction_from_angles, rotation

_LATE = 0.5  # frames by which a clip may end after its scene


@dataclass(frozen=True, kw_only=True)
class RequestedObject:
    """Ground truth of the object nearest to the centre of a viewpoint."""

    name: str
    """Class of the object."""
    directions: Float[np.ndarray, "frame 3"]
    """True direction of its centre, unit vectors."""
    radii: Float[np.ndarray, "frame"]
    """Angular radius, rad."""
    in_view: Bool[np.ndarray, "frame"]
    """Whether the centre of the object is inside the view."""


@dataclass(frozen=True, kw_only=True)
class SceneClip:
    """Ground truth of one clip."""

    scene: str
    """Name of the scene."""
    place: str
    """Name of the scene's palette."""
    requested: RequestedObject | None
    """Requested object (equation 1); None if no object is in view in the middle frame."""
    loudest: str
    """Class of the loudest object (equation 2)."""
    sounding: frozenset[str]
    """Classes that are louder than the wind at some time of the clip."""


def scene_clip(
    folder: Path, key: str, start: float, track: Float[np.ndarray, "frame 4"], frames_per_second: float
) -> SceneClip | None:
    """Ground truth of one clip, or None if `folder` has none for its scene.

    Args:
        folder: folder of the scenes' JSON files.
        key: key of the clip's record.
        start: start of the clip in its scene, s.
        track: the clip's viewpoint in each frame (yaw, pitch, horizontal and vertical field of view), rad.
        frames_per_second: frame rate of the clip.

    Raises MetricError if it is corrupt, of another version, or if the scene ends before the clip.
    """
    path = folder / f"{recording_of(key)}.json"
    if not path.is_file():
        return None
    truth = read_truth(path)
    times = start + np.arange(len(track)) / frames_per_second
    if times[-1] > truth["seconds"] + _LATE / frames_per_second:
        raise MetricError(
            f"{path}: the scene ends at {truth['seconds']:g} s, record {key} at {times[-1]:g} s: give the ground "
            "truth of the scenes that the dataset was made from"
        )
    objects = truth["objects"]
    powers = [_power(truth, item, start, times[-1] + 1 / frames_per_second) for item in objects]
    return SceneClip(
        scene=recording_of(key),
        place=truth["place"],
        requested=_requested(truth, track, times),
        loudest=objects[int(np.argmax(powers))]["class"],
        sounding=frozenset(
            item["class"]
            for item in objects
            if _loudness(truth, item, start, times[-1] + 1 / frames_per_second).max(initial=0) > AMBIENCE
        ),
    )


def view_caption_of(
    folder: Path, key: str, start: float, track: Float[np.ndarray, "frame 4"], frames_per_second: float
) -> str:
    """Caption of what the view of a clip of version 2 shows in its middle frame; the arguments are `scene_clip`'s.

    The wording depends on `key`. Raises MetricError if there is no ground truth, if it is corrupt or of version 1,
    whose objects have no colour names.
    """
    path = folder / f"{recording_of(key)}.json"
    truth = read_truth(path)
    middle, viewpoint = np.array([start + len(track) // 2 / frames_per_second]), track[len(track) // 2]
    ends = np.array([start, start + len(track) / frames_per_second])
    centre = direction_from_angles(viewpoint[0], viewpoint[1])
    seen: list[tuple[float, Said]] = []
    for item in truth["objects"]:
        if "colour" not in item:
            raise MetricError(f"{path} is of version {truth['version']}, which has no colours: use scenes of version 2")
        direction = _directions(truth, item, middle)[0]
        if in_view(direction, viewpoint):
            seen.append((-float(direction @ centre), _said(truth, item, item["colour"], ends)))
    objects = [said for _, said in sorted(seen, key=lambda pair: pair[0])]
    return describe_view(objects, truth["place"], elevations(viewpoint), np.random.default_rng(list(key.encode())))


def _said(truth: Truth, item: ObjectTruth, colour: str, ends: Float[np.ndarray, "2"]) -> Said:
    longitudes, latitudes = angles_from_direction(_directions(truth, item, ends))
    distances = np.interp(ends, truth["frame_times_s"], item["distance_m"])
    return Said(
        name=item["class"],
        colour=colour,
        longitude=(float(longitudes[0]), float(longitudes[1])),
        latitude=(float(latitudes[0]), float(latitudes[1])),
        distance=(float(distances[0]), float(distances[1])),
    )


def _requested(
    truth: Truth, track: Float[np.ndarray, "frame 4"], times: Float[np.ndarray, "frame"]
) -> RequestedObject | None:
    """The requested object (equation 1), or None."""
    middle = len(track) // 2
    candidates: list[tuple[float, RequestedObject]] = []
    for item in truth["objects"]:
        directions = _directions(truth, item, times)
        radii = np.radians(np.interp(times, truth["frame_times_s"], item["angular_radius_deg"]))
        seen = [in_view(direction, viewpoint) for direction, viewpoint in zip(directions, track, strict=True)]
        if seen[middle]:
            centre = direction_from_angles(track[middle, 0], track[middle, 1])
            found = RequestedObject(name=item["class"], directions=directions, radii=radii, in_view=np.array(seen))
            candidates.append((float(directions[middle] @ centre), found))
    return max(candidates, key=lambda pair: pair[0])[1] if candidates else None


def in_view(direction: Float[np.ndarray, "3"], viewpoint: Float[np.ndarray, "4"]) -> bool:
    """Whether a direction is inside a view (sphere/geometry.py, equation 5)."""
    yaw, pitch, *fields = (float(angle) for angle in viewpoint)
    x, y, z = direction @ rotation(yaw, pitch)
    return bool(z > 0 and all(abs(side) <= z * np.tan(fov / 2) for side, fov in zip((x, y), fields, strict=True)))


def _directions(truth: Truth, item: ObjectTruth, times: Float[np.ndarray, "frame"]) -> Float[np.ndarray, "frame 3"]:
    """Directions of an object at `times`, interpolated along chords, with less error than the file's rounding."""
    known = direction_from_angles(np.radians(item["lon_deg"]), np.radians(item["lat_deg"]))
    between = np.stack([np.interp(times, truth["frame_times_s"], axis) for axis in known.T], axis=1)
    return between / np.linalg.norm(between, axis=1, keepdims=True)


def _power(truth: Truth, item: ObjectTruth, start: float, end: float) -> float:
    loudness = _loudness(truth, item, start, end)
    return float(np.square(loudness).mean()) if len(loudness) else 0.0


def _loudness(truth: Truth, item: ObjectTruth, start: float, end: float) -> Float[np.ndarray, "frame"]:
    times = np.array(truth["frame_times_s"])
    return np.array(item["loudness"])[(times >= start - 1e-6) & (times < end - 1e-6)]


@lru_cache(maxsize=8)
def read_truth(path: Path) -> Truth:
    """Reads a file of ground truth; raises MetricError if it is missing, corrupt or of another version."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise MetricError(f"{path} cannot be read as ground truth ({error}): write the scenes again") from error
    version = data.get("version") if isinstance(data, dict) else None
    if version not in VERSIONS:
        known = " and ".join(map(str, VERSIONS))
        raise MetricError(f"{path} has version {version}, this program reads {known}: write the scenes again")
    try:
        truth: Truth = structure(data, Truth)
    except BaseValidationError as error:
        raise MetricError(f"{path} is corrupt: {problems(error)}; write the scenes again") from error
    frames = len(truth["frame_times_s"])
    rows = [len(item[name]) for item in truth["objects"] for name in BY_FRAME]
    if not truth["objects"] or not frames or any(row != frames for row in rows):
        raise MetricError(
            f"{path} is corrupt: {len(truth['objects'])} objects with rows of {sorted(set(rows))}, "
            f"wanted {frames} frames each; write the scenes again"
        )
    return truth
