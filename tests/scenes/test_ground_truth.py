"""Ground truth at a clip's times and the requested object, by hand; finding objects in views."""

import json
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.evaluate.metrics.av_align import direction_error
from con360av_jax.evaluate.selection import EvaluatedClip
from con360av_jax.scenes.appearance import colour_evidence, drawings
from con360av_jax.scenes.ground_truth import SceneClip, scene_clip
from con360av_jax.scenes.scene import CLASSES
from con360av_jax.scenes.sighting import find_object
from con360av_jax.sphere.geometry import angles_from_direction
from tests.support.scene_clips import CONFIG, View, largest, view

SECONDS, TRUTH_RATE, RATE = 6.0, 2, 4
TIMES = np.arange(SECONDS * TRUTH_RATE) / TRUTH_RATE


def item(name: str, longitudes: np.ndarray, loudness: np.ndarray) -> dict:
    row = np.ones(len(TIMES))
    return {
        "class": name,
        "onsets_s": [0.5],
        "lon_deg": (longitudes * row).tolist(),
        "lat_deg": (0 * row).tolist(),
        "angular_radius_deg": (10 * row).tolist(),
        "distance_m": (2 * row).tolist(),
        "loudness": (loudness * row).tolist(),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bell that moves right at 10 degrees per second, loud until 3 s, and a drum at rest at 40 degrees."""
    truth = {
        "version": 1,
        "caption": "",
        "seconds": SECONDS,
        "place": "sea",
        "frame_times_s": TIMES.tolist(),
        "objects": [
            item("bell", 10 * TIMES, np.where(TIMES < 3, 0.5, 0.0)),
            item("drum", np.array(40.0), np.array(0.1)),
        ],
    }
    (tmp_path / "scene_000007.json").write_text(json.dumps(truth))
    return tmp_path


def looking(yaw: float, start: float, field: float = 60.0, frames: int = 8) -> EvaluatedClip:
    row = tuple(np.radians([yaw, 0.0, field, field]).tolist())
    return EvaluatedClip(
        clip="scene_000007_1_2",
        key="scene_000007/1/2",
        caption="",
        start=start,
        segment=1,
        viewpoint_index=2,
        seed=0,
        viewpoint=(row,) * frames,  # pyright: ignore[reportArgumentType]
    )


def found(folder: Path, clip: EvaluatedClip) -> SceneClip:
    scene = scene_clip(folder, clip.key, clip.start, np.array(clip.viewpoint), RATE)
    assert scene is not None
    return scene


def test_truth_is_read_at_the_clips_own_times(folder: Path):
    scene = found(folder, looking(yaw=20, start=1.5))
    assert (scene.scene, scene.place) == ("scene_000007", "sea")
    assert scene.requested is not None
    assert scene.requested.name == "bell"
    longitude, latitude = np.degrees(angles_from_direction(scene.requested.directions))
    np.testing.assert_allclose(longitude, 10 * (1.5 + np.arange(8) / RATE), atol=1e-3)
    np.testing.assert_allclose(latitude, 0, atol=1e-9)
    np.testing.assert_allclose(scene.requested.radii, np.radians(10))


def test_the_object_nearest_to_the_centre_is_requested_and_the_loudest_is_that_of_the_clips_time(folder: Path):
    # In its middle frame, at 2.5 s, the bell is at 25, the drum at 40 degrees.
    scenes = [found(folder, looking(yaw=yaw, start=1.5)) for yaw in (30, 35)]
    assert [scene.requested.name for scene in scenes if scene.requested] == ["bell", "drum"]
    assert {scene.loudest for scene in scenes} == {"bell"}
    assert found(folder, looking(yaw=30, start=3.0)).loudest == "drum"


def test_only_objects_inside_the_view_are_requested(folder: Path):
    assert found(folder, looking(yaw=-90, start=1.5)).requested is None
    narrow = found(folder, looking(yaw=25, start=1.5, field=8)).requested
    assert narrow is not None
    # The bell goes from 15 to 32.5 degrees, the view from 21 to 29.
    np.testing.assert_array_equal(narrow.in_view, [False, False, False, True, True, True, False, False])


def test_a_clip_of_no_scene_has_no_truth(folder: Path, tmp_path: Path):
    assert scene_clip(tmp_path / "elsewhere", "scene_000007/0/0", 0.0, np.zeros((8, 4)), RATE) is None


def test_every_class_has_drawings_and_colours_of_its_own():
    drawn = drawings("meadow")
    assert set(drawn.classes) == set(CLASSES)
    assert drawn.pictures.shape[:3] == drawn.cover.shape
    for name in CLASSES:
        own = np.array(drawn.classes) == name
        bins = (drawn.pictures[own][drawn.cover[own] > 0.95] // 16).astype(int)
        assert colour_evidence(name, "meadow")[tuple(bins.T)].mean() > 0


def seen_in(each: View, name: str) -> tuple[bool, float]:
    """Whether an object of a class is found in the middle frame, and its angle to the largest object, degrees."""
    frame = CONFIG.clip.frames // 2
    item = each.scene.truth["objects"][largest(each.scene)]
    radius = np.radians(item["angular_radius_deg"][frame])
    viewpoint = np.array(each.clip.viewpoint[frame])
    sighting = find_object(
        each.pictures[frame], np.ones((4, 4)), viewpoint, name, float(radius), each.scene.truth["place"]
    )
    lon, lat = np.radians([item["lon_deg"][frame], item["lat_deg"][frame]])
    true = np.array([[np.cos(lat) * np.sin(lon), np.sin(lat), np.cos(lat) * np.cos(lon)]])
    return sighting.seen, float(direction_error(sighting.direction[None], true)[0])


def test_the_right_class_is_seen_at_its_place_and_others_are_not_there():
    views = [view(index) for index in range(8, 14)]
    right, others = [], []
    for each in views:
        own = each.scene.truth["objects"][largest(each.scene)]["class"]
        there = {item["class"] for item in each.scene.truth["objects"]}
        right.append(seen_in(each, own))
        others += [seen_in(each, name)[0] for name in CLASSES if name not in there]
    assert np.mean([seen for seen, _ in right]) >= 0.8
    assert max(degrees for seen, degrees in right if seen) < 5
    # Another class is seen now and then: half a bell may look like a drum.
    assert np.mean(others) < 0.3
