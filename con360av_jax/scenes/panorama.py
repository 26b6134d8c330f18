"""Pictures of procedural scenes, painted back to front; only the pixels around an object change.

The background comes first, then for each object, farthest first, a flash of light at its onsets and its drawing. They
are painted on a panorama or, without one, on the pixels of a view (grids.py).
"""

from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from con360av_jax.scenes.grids import Grid, PanoramaGrid, Place, ViewGrid
from con360av_jax.scenes.scene import Scene, SceneObject
from con360av_jax.scenes.sprites import DRAWINGS, GLOWS, Canvas, Moment
from con360av_jax.scenes.textures import PALETTES, paint_background
from con360av_jax.scenes.timbres import loudness_envelope
from con360av_jax.sphere.geometry import directions

# Extent of a drawing and of a flash, in angular radii (as tangents), and relative growth of an object at an onset.
DRAWING_REACH, FLASH_REACH, SWELL = 1.5, 1.6, 0.12
# Painted pixels per pixel of a view and axis around objects; backgrounds are soft enough for one.
FINER = 2


@lru_cache(maxsize=4)
def panorama_grid(height: int, width: int) -> PanoramaGrid:
    """Pixels of a whole panorama, cached."""
    return PanoramaGrid(directions(height, width))


def render_scene_background(scene: Scene, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Background of a scene, which does not change over time."""
    return paint_background(scene.background, panorama_grid(height, width))


def render_frame(
    scene: Scene,
    time: float,
    height: int,
    width: int,
    background: UInt8[np.ndarray, "height width 3"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Panorama at `time` (s); pass `background` to avoid rendering it for each frame."""
    picture = render_scene_background(scene, height, width) if background is None else background.copy()
    paint_objects(picture, panorama_grid(height, width), scene, time)
    return picture


def render_views(
    scene: Scene, times: Float[np.ndarray, "frame"], viewpoint: Float[np.ndarray, "4"], height: int, width: int
) -> tuple[UInt8[np.ndarray, "frame height width 3"], Bool[np.ndarray, "frame height width"]]:
    """Views of a scene at `times` (s) from one viewpoint, and where they show objects; no panorama is rendered.

    The viewpoint is yaw, pitch and two fields of view, rad. Views look like those that are cut from a panorama of at
    least their resolution.
    """
    size = FINER * width, FINER * height
    background = paint_background(scene.background, ViewGrid(viewpoint, height, width))
    background, grid = cv2.resize(background, size, interpolation=cv2.INTER_NEAREST), ViewGrid(viewpoint, *size[::-1])
    views = np.empty((len(times), height, width, 3), np.uint8)
    objects = np.empty(views.shape[:-1], np.uint8)
    for view, shown, time in zip(views, objects, times, strict=True):
        large, cover = background.copy(), np.zeros(size[::-1], np.uint8)
        paint_objects(large, grid, scene, float(time), cover)
        view[...] = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
        shown[...] = cv2.resize(cover, (width, height), interpolation=cv2.INTER_AREA)
    return views, objects >= 128


def paint_objects(
    picture: UInt8[np.ndarray, "height width 3"],
    grid: Grid,
    scene: Scene,
    time: float,
    cover: UInt8[np.ndarray, "height width"] | None = None,
) -> None:
    """Paints the objects at `time` (s) in place into `picture`, which contains the background on `grid`.

    `cover` receives the share of each pixel that a drawing covers, 0 to 255.
    """
    instant = np.array(time)
    distances = [float(item.motion.distance(instant, scene.seconds)) for item in scene.objects]
    light = PALETTES[scene.background.palette].light
    for number in np.argsort([-distance for distance in distances], kind="stable"):
        item = scene.objects[number]
        longitude, latitude = (float(angle) for angle in item.motion.angles(instant))
        tangent = float(np.tan(item.angular_radius(instant, scene.seconds)))
        moment = _moment(item, time)
        place = longitude, latitude, tangent * (1 + SWELL * moment.pulse)
        if moment.pulse > 0.01:
            _paint_flash(picture, grid, item.name, moment.pulse, place)
        painted = _paint_drawing(picture, grid, item.name, moment, light, place)
        if cover is not None and painted is not None:
            where, share = painted
            cover[where] = np.maximum(cover[where], np.round(255 * share))


def _moment(item: SceneObject, time: float) -> Moment:
    earlier = item.onsets[item.onsets <= time + 1e-9]
    return Moment(
        time=time,
        since=time - float(earlier[-1]) if earlier.size else float("inf"),
        loudness=float(loudness_envelope(item, np.array(time))),
        hue=item.hue,
    )


def _paint_flash(picture: np.ndarray, grid: Grid, name: str, pulse: float, place: Place) -> None:
    """Blends a soft disc of the class's light into `picture`."""
    found = grid.patch(place, FLASH_REACH)
    if found is None:
        return
    where, p, q = found
    fade = np.clip((1 - np.hypot(p, q) / np.float32(FLASH_REACH)) * np.float32(1.6), 0, 1)
    share = np.float32(pulse) * fade * fade
    patch = picture[where]
    for channel, light in enumerate(GLOWS[name]):
        plane = patch[..., channel].astype(np.float32)
        patch[..., channel] = np.round(plane + (light - plane) * share)
    picture[where] = patch


def _paint_drawing(
    picture: np.ndarray, grid: Grid, name: str, moment: Moment, light: tuple[float, float, float], place: Place
) -> tuple[tuple[np.ndarray, np.ndarray], Float32[np.ndarray, "row column"]] | None:
    """Paints a drawing; returns its pixels and the share of each that it covers, or None if it is out of view."""
    found = grid.patch(place, DRAWING_REACH)
    if found is None:
        return None
    where, p, q = found
    canvas = Canvas(p, q, pixel=grid.softness(place[2]))
    DRAWINGS[name](canvas, moment)
    patch, kept = picture[where], 1 - canvas.layers[3]
    for channel, brightness in enumerate(light):
        plane = patch[..., channel] * kept + canvas.layers[channel] * np.float32(brightness)
        patch[..., channel] = np.clip(np.round(plane), 0, 255)
    picture[where] = patch
    return where, canvas.layers[3]
