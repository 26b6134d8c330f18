"""Viewpoints of procedural scenes, which objects they show, and view captions.

Of the viewpoints that `draw_viewpoints` draws, 80 % look within 15 degrees of an object, 20 % at no object.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from con360av_jax.scenes.captions_2 import Said, describe_view, still
from con360av_jax.scenes.scene import Scene, SceneObject
from con360av_jax.scenes.timbres import loudness_envelope
from con360av_jax.sphere.geometry import angles_from_direction, direction_from_angles, rotation

FIELDS = np.radians(45), np.radians(70)
"""Smallest and largest field of view, rad."""
NEAR = np.radians(15)
"""Largest angle from an object to the centre of a viewpoint that looks at it, rad."""
EMPTY = 0.2
"""Share of viewpoints that show no object."""
_TRIES = 256
_EXTENT = 1.3  # of a drawing, in angular radii (as tangents)
_STEEPEST = 0.87  # sine of the largest pitch of a viewpoint that shows no object

Viewpoint = Float32[np.ndarray, "4"]


@dataclass(frozen=True, kw_only=True)
class SeenObject:
    """An object whose centre is in view."""

    name: str
    """Class."""
    colour: str
    position: tuple[float, float]
    """Place of its centre in the view, right and up, from -1 to 1."""
    envelope: float
    """Envelope of its audio, which it also shows, from 0 to 1 (scenes/timbres.py)."""


def draw_viewpoints(scene: Scene, time: float, generator: np.random.Generator, count: int = 1) -> tuple[Viewpoint, ...]:
    """Viewpoints of `scene` at `time` (s), each yaw, pitch and field of view (twice), rad.

    Those that look at objects look at different ones, as far as there are enough. A viewpoint at no object shows none
    during the whole scene; where a scene leaves no room for that, it looks at one.
    """
    order = generator.permutation(len(scene.objects))
    return tuple(
        _draw_viewpoint(scene, time, scene.objects[order[number % len(order)]], generator) for number in range(count)
    )


def _draw_viewpoint(scene: Scene, time: float, item: SceneObject, generator: np.random.Generator) -> Viewpoint:
    """A viewpoint at no object or at `item`."""
    found = _empty_viewpoint(scene, generator) if generator.uniform() < EMPTY else None
    if found is not None:
        return found
    longitude, latitude = (float(angle) for angle in item.motion.angles(np.array(time)))
    # Evenly over the cap around the object.
    cosine = generator.uniform(np.cos(NEAR), 1)
    around, sine = generator.uniform(0, 2 * np.pi), np.sqrt(1 - cosine**2)
    ray = rotation(longitude, latitude) @ np.array([sine * np.cos(around), sine * np.sin(around), cosine])
    yaw, pitch = angles_from_direction(ray)
    return _viewpoint(float(yaw), float(pitch), float(generator.uniform(*FIELDS)))


def seen_objects(scene: Scene, time: float, viewpoint: Viewpoint) -> tuple[SeenObject, ...]:
    """Objects whose centre is in view at `time` (s), the nearest to the centre first."""
    found: list[tuple[float, SeenObject]] = []
    for item in scene.objects:
        place = _position(item, time, viewpoint)
        if place is not None:
            envelope = float(loudness_envelope(item, np.array(time)))
            seen = SeenObject(name=item.name, colour=item.colour, position=place, envelope=envelope)
            found.append((float(np.hypot(*place)), seen))
    return tuple(seen for _, seen in sorted(found, key=lambda pair: pair[0]))


def position_directions(
    positions: Float[np.ndarray, "*point 2"], viewpoint: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "*point 3"]:
    """Directions (unit vectors) that positions in a view (`SeenObject.position`) show."""
    yaw, pitch, *fields = (float(angle) for angle in viewpoint)
    sides = np.asarray(positions, np.float64) * np.tan(np.array(fields) / 2)
    rays = np.concatenate([sides, np.ones_like(sides[..., :1])], axis=-1)
    return (rays / np.linalg.norm(rays, axis=-1, keepdims=True)) @ rotation(yaw, pitch).T


def view_caption(
    scene: Scene, seen: Sequence[SeenObject], viewpoint: Viewpoint, generator: np.random.Generator, moves: bool
) -> str:
    """Caption of a viewpoint that shows `seen` (`seen_objects`), with the motion of the whole scene if `moves`."""
    by_name = {item.name: item for item in scene.objects}
    objects = [said(by_name[each.name], scene.seconds) for each in seen]
    shown = objects if moves else [still(item) for item in objects]
    return describe_view(shown, scene.background.palette, elevations(viewpoint), generator)


def elevations(viewpoint: Viewpoint) -> tuple[float, float]:
    """Latitude of the lower and upper edge of a view in its middle column, rad."""
    _, pitch, _, vertical = (float(angle) for angle in viewpoint)
    return max(pitch - vertical / 2, -np.pi / 2), min(pitch + vertical / 2, np.pi / 2)


def said(item: SceneObject, seconds: float) -> Said:
    """Values of an object of a scene of `seconds` that captions use."""
    ends = np.array([0.0, seconds])
    (start, end), (low, high) = item.motion.angles(ends)
    near, far = item.motion.distance(ends, seconds)
    return Said(
        name=item.name,
        colour=item.colour,
        longitude=(float(start), float(end)),
        latitude=(float(low), float(high)),
        distance=(float(near), float(far)),
    )


def _position(item: SceneObject, time: float, viewpoint: Viewpoint) -> tuple[float, float] | None:
    """Place of an object's centre in a view (`SeenObject.position`), or None if it is outside."""
    yaw, pitch, *fields = (float(angle) for angle in viewpoint)
    x, y, z = direction_from_angles(*item.motion.angles(np.array(time))) @ rotation(yaw, pitch)
    if z <= 0:
        return None
    across, up = (float(side / z / np.tan(field / 2)) for side, field in zip((x, y), fields, strict=True))
    return (across, up) if max(abs(across), abs(up)) <= 1 else None


def _viewpoint(yaw: float, pitch: float, field: float) -> Viewpoint:
    return np.array([yaw, pitch, field, field], np.float32)


def _empty_viewpoint(scene: Scene, generator: np.random.Generator) -> Viewpoint | None:
    """A viewpoint, one of _TRIES, that shows no part of an object during the whole scene; None if there is none."""
    yaws = generator.uniform(-np.pi, np.pi, _TRIES)
    pitches = np.arcsin(generator.uniform(-_STEEPEST, _STEEPEST, _TRIES))
    fields = generator.uniform(*FIELDS, _TRIES)
    times = np.linspace(0, scene.seconds, 9)
    free = np.ones(_TRIES, bool)
    for item in scene.objects:
        rays = direction_from_angles(*item.motion.angles(times))
        radii = np.arctan(_EXTENT * np.tan(item.angular_radius(times, scene.seconds)))
        free &= _outside(rays, radii, yaws, pitches, fields)
    if not free.any():
        return None
    first = int(np.argmax(free))
    return _viewpoint(float(yaws[first]), float(pitches[first]), float(fields[first]))


def _outside(
    rays: Float[np.ndarray, "time 3"],
    radii: Float[np.ndarray, "time"],
    yaws: Float[np.ndarray, "view"],
    pitches: Float[np.ndarray, "view"],
    fields: Float[np.ndarray, "view"],
) -> Bool[np.ndarray, "view"]:
    """Whether caps around `rays` lie beyond one side of each view's frustum at all times."""
    forward = direction_from_angles(yaws, pitches)
    right = direction_from_angles(yaws + np.pi / 2, np.zeros_like(yaws))
    up = direction_from_angles(yaws, pitches + np.pi / 2)
    z, x, y = (axis @ rays.T for axis in (forward, right, up))
    cosine, sine = np.cos(fields / 2)[:, None], np.sin(fields / 2)[:, None]
    # Distance to the planes through the viewer that bound the view.
    beyond = np.maximum(np.abs(x), np.abs(y)) * cosine - z * sine
    return np.all(beyond > np.sin(radii), axis=1)
