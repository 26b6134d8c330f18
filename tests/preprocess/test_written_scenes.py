"""Scenes of version 2 on disk: preprocessing makes the records that training gets without files."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.config.files import save_config
from con360av_jax.config.settings import ClipConfig, Config
from con360av_jax.data.source import Dataset, open_dataset
from con360av_jax.errors import DatasetError, MetricError
from con360av_jax.scenes.captions_2 import words
from con360av_jax.scenes.ground_truth import scene_clip, view_caption_of
from con360av_jax.scenes.panorama import render_views
from con360av_jax.scenes.sources import CLIPS_PER_SCENE, SceneClips
from con360av_jax.scenes.synthetic import write_scene_clips
from con360av_jax.scenes.version_2 import make_scene_2
from con360av_jax.scenes.views import seen_objects
from preprocess.cli import main

SEED, SCENES = 3, 2
CLIP = ClipConfig(seconds=2, hop_seconds=2, frames_per_second=4, height=64, width=64, map_height=32, map_width=64)
SETTINGS = {"seconds": 2.0, "frames_per_second": 4.0, "version": 2, "split": "validation"}


@pytest.fixture(scope="module")
def written(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    """A folder of scenes and the dataset that is made from it with its own viewpoints."""
    folder = tmp_path_factory.mktemp("written")
    write_scene_clips(folder / "scenes", SCENES, SEED, **SETTINGS)
    save_config(replace(tiny, clip=CLIP), folder / "config.json")
    options = ["--out", str(folder / "data"), "--config", str(folder / "config.json"), "--captions", "file"]
    options += ["--trajectories", str(folder / "scenes" / "viewpoints.csv"), "--workers", "0"]
    assert main(["run", str(folder / "scenes"), *options]) == 0
    return folder / "scenes", open_dataset(folder / "data")


def test_records_of_written_scenes_equal_rendered_clips(written: tuple[Path, Dataset], tiny: Config):
    folder, dataset = written
    assert len(dataset) == 2 * SCENES
    source = SceneClips(CLIP, tiny.mel, SEED, "validation")
    for sample in dataset:
        index = int(sample.clip.removeprefix("scene_"))
        rendered, scene = source[CLIPS_PER_SCENE * index], make_scene_2(SEED, index, 2.0, "validation")
        assert sample.caption == rendered["scene_caption"] == scene.caption
        np.testing.assert_array_equal(sample.arrays["sound"], rendered["sound"])
        np.testing.assert_allclose(sample.arrays["mel"], rendered["mel"], atol=1e-5)
        viewpoint = sample.arrays["viewpoint"]
        video, _ = render_views(scene, np.arange(8) / 4, viewpoint[0], 64, 64)
        errors = np.square(video.astype(float) - sample.arrays["video"]).mean(axis=(1, 2, 3))
        # H.264 subsamples colour; a panorama in its place differs by 35 dB and more from the view.
        assert (10 * np.log10(255**2 / errors)).min() > 26
        same = np.corrcoef(sample.arrays["saliency"].ravel(), rendered["saliency"].ravel())[0, 1]
        assert same > 0.97


def test_the_truth_of_written_scenes_names_what_each_viewpoint_shows(written: tuple[Path, Dataset]):
    folder, dataset = written
    for sample in dataset:
        scene = make_scene_2(SEED, int(sample.clip.removeprefix("scene_")), 2.0, "validation")
        viewpoint = sample.arrays["viewpoint"]
        seen = seen_objects(scene, 1.0, viewpoint[0])
        truth = scene_clip(folder, sample.key, sample.start, viewpoint, 4)
        assert truth is not None and truth.place == scene.background.palette
        assert (truth.requested.name if truth.requested else None) == (seen[0].name if seen else None)
        caption = view_caption_of(folder, sample.key, sample.start, viewpoint, 4)
        named = {item.colour for item in seen}
        assert named <= words([caption]) and bool({"nothing", "only"} & words([caption])) == (not seen)
        assert caption == view_caption_of(folder, sample.key, sample.start, viewpoint, 4)


def test_written_viewpoints_look_at_different_objects_and_truth_has_colours(written: tuple[Path, Dataset]):
    folder, _ = written
    with (folder / "viewpoints.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["clip"] for row in rows] == [f"scene_{index:06d}" for index in range(SCENES) for _ in range(2)]
    for index in range(SCENES):
        scene = make_scene_2(SEED, index, 2.0, "validation")
        truth = json.loads((folder / f"scene_{index:06d}.json").read_text())
        assert (truth["version"], truth["split"]) == (2, "validation")
        assert [item["colour"] for item in truth["objects"]] == [item.colour for item in scene.objects]
        own = [row for row in rows if row["clip"] == f"scene_{index:06d}"]
        seen = [
            seen_objects(
                scene, 1.0, np.radians([*(float(row[axis]) for axis in ("yaw", "pitch")), *[float(row["fov"])] * 2])
            )
            for row in own
        ]
        nearest = [objects[0].name for objects in seen if objects]
        assert len(set(nearest)) == len(nearest)


def test_scenes_of_version_1_have_no_view_captions(tmp_path: Path):
    write_scene_clips(tmp_path / "one", 1, SEED, height=16, width=32, seconds=1.0)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "captions.jsonl", "scene_000000.json", "scene_000000.mp4", "scenes.json",
    ]  # fmt: skip
    recorded = json.loads((tmp_path / "one" / "scenes.json").read_text())
    assert list(recorded) == [
        *("version", "clips", "seed", "height", "width", "seconds", "frames_per_second", "sample_rate")
    ]
    with pytest.raises(MetricError, match="no colours"):
        view_caption_of(tmp_path / "one", "scene_000000/0/0", 0.0, np.zeros((4, 4)), 4)


def test_a_folder_of_another_split_or_version_is_not_taken_for_these_scenes(tmp_path: Path):
    settings = {"height": 16, "width": 32, "seconds": 1.0, "version": 2}
    write_scene_clips(tmp_path / "out", 1, SEED, **settings)
    write_scene_clips(tmp_path / "out", 1, SEED, **settings)
    for other in ({"split": "validation"}, {"viewpoints": 3}, {"version": 1}):
        with pytest.raises(DatasetError, match="choose another folder"):
            write_scene_clips(tmp_path / "out", 1, SEED, **(settings | other))
    with pytest.raises(DatasetError, match="no version 3"):
        write_scene_clips(tmp_path / "three", 1, SEED, **(settings | {"version": 3}))
    assert not (tmp_path / "three").exists()
