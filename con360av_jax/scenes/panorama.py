"""Panoramas of procedural scenes, painted back to front; only the pixels around an object change.

The background comes first, then for each object, farthest first, a flash of light at its onsets and its drawing.
The box of longitudes that contains a cap of radius r around latitude b has the half width
    (1)  asin(sin r / cos b),   or all longitudes if the cap contains a pole.
A pixel at longitude l and latitude f lies, seen from an object at longitude 0 and latitude b, at the gnomonic
    (2)  p = cos f sin l / z,  q = (cos b sin f - sin b cos f cos l) / z,  z = sin b sin f + cos b cos f cos l.
"""

import numpy as np
from jaxtyping import UInt8

from con360av_jax.scenes.scene import Scene, SceneObject
from con360av_jax.scenes.sprites import DRAWINGS, GLOWS, Canvas, Moment
from con360av_jax.scenes.textures import PALETTES, render_background
from con360av_jax.scenes.timbres import loudness_envelope
from con360av_jax.sphere.geometry import directions

# Extent of a drawing and of a flash, in angular radii (as tangents), and relative growth of an object at an onset.
DRAWING_REACH, FLASH_REACH, SWELL = 1.5, 1.6, 0.12


def render_scene_background(scene: Scene, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Background of a scene, which does not change over time."""
    return render_background(scene.background, directions(height, width))


def render_frame(
    scene: Scene,
    time: float,
    height: int,
    width: int,
    background: UInt8[np.ndarray, "height width 3"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Panorama at `time` (s); pass `background` to avoid rendering it for each frame."""
    picture = render_scene_background(scene, height, width) if background is None else background.copy()
    paint_objects(picture, scene, time)
    return picture


def paint_objects(picture: UInt8[np.ndarray, "height width 3"], scene: Scene, time: float) -> None:
    """Paints the objects at `time` (s) in place into `picture`, which contains the background."""
    instant = np.array(time)
    distances = [float(item.motion.distance(instant, scene.seconds)) for item in scene.objects]
    light = PALETTES[scene.background.palette].light
    for number in np.argsort([-distance for distance in distances], kind="stable"):
        item = scene.objects[number]
        longitude, latitude = (float(angle) for angle in item.motion.angles(instant))
        tangent = float(np.tan(item.angular_radius(instant, scene.seconds)))
        moment = _moment(item, time)
        scale = tangent * (1 + SWELL * moment.pulse)
        if moment.pulse > 0.01:
            _paint_flash(picture, item.name, moment.pulse, (longitude, latitude, scale))
        _paint_drawing(picture, item.name, moment, light, (longitude, latitude, scale))


def _moment(item: SceneObject, time: float) -> Moment:
    earlier = item.onsets[item.onsets <= time + 1e-9]
    return Moment(
        time=time,
        since=time - float(earlier[-1]) if earlier.size else float("inf"),
        loudness=float(loudness_envelope(item, np.array(time))),
        hue=item.hue,
    )


def _paint_flash(picture: np.ndarray, name: str, pulse: float, place: tuple[float, float, float]) -> None:
    """Blends a soft disc of the class's light into `picture`; `place` is longitude, latitude, tangent of the radius."""
    where, p, q = _patch(place, FLASH_REACH, picture.shape[:2])
    fade = np.clip((1 - np.hypot(p, q) / np.float32(FLASH_REACH)) * np.float32(1.6), 0, 1)
    share = np.float32(pulse) * fade * fade
    patch = picture[where]
    for channel, light in enumerate(GLOWS[name]):
        plane = patch[..., channel].astype(np.float32)
        patch[..., channel] = np.round(plane + (light - plane) * share)
    picture[where] = patch


def _paint_drawing(
    picture: np.ndarray,
    name: str,
    moment: Moment,
    light: tuple[float, float, float],
    place: tuple[float, float, float],
) -> None:
    where, p, q = _patch(place, DRAWING_REACH, picture.shape[:2])
    canvas = Canvas(p, q, pixel=np.pi / (len(picture) * place[2]))
    DRAWINGS[name](canvas, moment)
    patch, kept = picture[where], 1 - canvas.layers[3]
    for channel, brightness in enumerate(light):
        plane = patch[..., channel] * kept + canvas.layers[channel] * np.float32(brightness)
        patch[..., channel] = np.clip(np.round(plane), 0, 255)
    picture[where] = patch


def _patch(
    place: tuple[float, float, float], reach: float, size: tuple[int, int]
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Index arrays of the pixels within `reach` of an object, and their p and q (equation 2) in units of its size.

    p and q are 1000 for pixels behind the viewer.
    """
    (height, width), (longitude, latitude, scale) = size, place
    rows, columns = _pixels_around(longitude, latitude, float(np.arctan(reach * scale)), size)
    turn = ((columns + 0.5) / width - 0.5) * 2 * np.pi - longitude
    lift = ((0.5 - (rows + 0.5) / height) * np.pi)[:, None]
    ahead = np.cos(lift) * np.cos(turn)
    depth = np.sin(latitude) * np.sin(lift) + np.cos(latitude) * ahead
    depth = np.where(depth > 0.05, depth, np.inf) * scale
    p = np.cos(lift) * np.sin(turn) / depth
    q = (np.cos(latitude) * np.sin(lift) - np.sin(latitude) * ahead) / depth
    p, q = (np.where(np.isinf(depth), 1e3, axis).astype(np.float32) for axis in (p, q))
    return (rows[:, None], columns[None]), p, q


def _pixels_around(
    longitude: float, latitude: float, radius: float, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and wrapped columns of the box that contains a cap of `radius` (rad), equation 1."""
    height, width = size
    top, bottom = ((0.5 - edge / np.pi) * height for edge in (latitude + radius, latitude - radius))
    rows = np.arange(max(0, int(np.floor(top))), min(height, int(np.ceil(bottom)) + 1))
    if abs(latitude) + radius >= np.pi / 2:
        return rows, np.arange(width)
    half = np.arcsin(np.sin(radius) / np.cos(latitude)) / (2 * np.pi) * width
    centre = (longitude / (2 * np.pi) + 0.5) * width
    columns = np.arange(int(np.floor(centre - half)), int(np.ceil(centre + half)) + 1)
    return rows, columns % width if columns.size < width else np.arange(width)
