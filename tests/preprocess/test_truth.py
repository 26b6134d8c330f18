"""What the chain finds in procedural scenes is what they hold: viewpoints and sound lead to the objects.

A viewpoint and an object are compared as directions, in degrees: a moving viewpoint frame by frame,
median over the segment; a still one with the object's mean direction. "The object" is the loudest or the largest.
"""

import numpy as np
import pytest

from con360av_jax.config.files import load_config
from con360av_jax.scenes.synthetic import SyntheticClip, render_clip
from con360av_jax.scenes.truth import ObjectTruth
from con360av_jax.sphere.ambisonics import sound_direction
from con360av_jax.sphere.contrast import contrast_saliency
from con360av_jax.sphere.geometry import direction_from_angles
from preprocess.stages.viewpoints import ViewpointSettings, find_viewpoints

SEED, HEIGHT = 77, 128
CLIP = load_config("debug").clip
NEAR = 5.0  # degrees
ALONE = 1.5  # power of the loudest object over that of the next


def rays(yaw: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    return np.asarray(direction_from_angles(np.asarray(yaw, np.float64), np.asarray(pitch, np.float64)))


def degrees_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip((first * second).sum(axis=-1), -1, 1)))


def mean_direction(path: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    mean = np.average(path, axis=0, weights=weight)
    return mean / np.linalg.norm(mean)


def path_of(item: ObjectTruth) -> np.ndarray:
    return rays(np.radians(item["lon_deg"]), np.radians(item["lat_deg"]))


def loudness(item: ObjectTruth) -> float:
    return float(np.mean(np.square(item["loudness"])))


def segment_of(index: int) -> SyntheticClip:
    return render_clip(SEED, CLIP.seconds, HEIGHT, 2 * HEIGHT, CLIP.frames_per_second, 16_000, index)


def misses(clip: SyntheticClip) -> dict[str, float]:
    """Degrees from the object to the nearest of three viewpoints, still and moving."""
    saliency = contrast_saliency(clip.video, CLIP.frames_per_second, CLIP.map_height, CLIP.map_width)
    objects = clip.truth["objects"]
    wanted = [
        path_of(max(objects, key=loudness)),
        path_of(max(objects, key=lambda item: float(np.mean(item["angular_radius_deg"])))),
    ]
    found: dict[str, float] = {}
    for name in ("still", "moving"):
        settings = ViewpointSettings(count=3, moving=name == "moving")
        tracks = [one.track for one in find_viewpoints(saliency, CLIP.frames_per_second, settings)]
        views = [rays(track[:, 0], track[:, 1]) for track in tracks]
        found[name] = min(
            float(np.median(degrees_between(view, path)))
            if settings.moving
            else float(degrees_between(view[0], mean_direction(path)))
            for view in views
            for path in wanted
        )
    return found


def sound_miss(clip: SyntheticClip) -> float | None:
    """Degrees from the loudest object to where the sound comes from; None where two objects are nearly as loud."""
    objects = sorted(clip.truth["objects"], key=loudness, reverse=True)
    loud = objects[0]
    if len(objects) > 1 and loudness(loud) < ALONE * loudness(objects[1]):
        return None
    azimuth, elevation = sound_direction(clip.sound)
    wanted = mean_direction(path_of(loud), np.square(loud["loudness"]))
    return float(degrees_between(rays(np.array(-azimuth), np.array(elevation)), wanted))


def shares(indices: range) -> dict[str, float]:
    clips = [segment_of(index) for index in indices]
    seen = [misses(clip) for clip in clips]
    heard = [miss for clip in clips if (miss := sound_miss(clip)) is not None]
    assert heard
    near = {name: float(np.mean([miss[name] < NEAR for miss in seen])) for name in ("still", "moving")}
    return near | {"sound": float(np.mean([miss < NEAR for miss in heard]))}


def test_viewpoints_and_sound_lead_to_the_loudest_or_largest_object():
    found = shares(range(10))
    assert min(found["moving"], found["sound"]) >= 0.9, found
    # Of so few scenes two are hard for what stands still: one where two paths cross, one with five objects alike.
    assert found["still"] >= 0.8, found


@pytest.mark.slow
def test_viewpoints_and_sound_lead_to_the_loudest_or_largest_object_of_many_scenes():
    found = shares(range(10, 70))
    assert min(found.values()) >= 0.9, found
