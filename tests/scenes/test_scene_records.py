"""Datasets of procedural scenes: their records are the clips of the sources, and lead back to their scenes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.data.schema import MAP_FIELDS, RAW_FIELDS
from con360av_jax.data.source import Dataset, open_dataset
from con360av_jax.data.writer import write_dataset
from con360av_jax.errors import DatasetError
from con360av_jax.scenes.records import SceneSet, scene_of, write_scene_records
from con360av_jax.scenes.sources import SceneClips
from con360av_jax.scenes.version_2 import make_scene_2
from tests.support.tiny_config import TINY
from tests.support.tiny_world import files_below

SCENES = SceneSet(records=5, seed=8, split="validation")


class Means:
    """Encoder of two numbers per clip, which notes the mels that it was given."""

    fields: tuple[str, ...] = ("clap_text",)

    def __init__(self):
        self.mels: list[np.ndarray] = []

    def __call__(self, view: np.ndarray, mel: np.ndarray, caption: str) -> dict[str, np.ndarray]:
        self.mels.append(mel)
        text = np.full(TINY.model.text.audio.projection, view.mean(), np.float32)
        text[0] = len(caption)
        return {"clap_text": text}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset of raw records: two scenes and one of the clips of a third."""
    out = tmp_path_factory.mktemp("scenes") / "records"
    write_scene_records(out, TINY, SCENES)
    return open_dataset(out)


def test_records_are_the_clips_of_the_sources(written: Dataset):
    source = SceneClips(TINY.clip, TINY.mel, 8, "validation")
    assert written.manifest.fields == (*RAW_FIELDS, *MAP_FIELDS)
    assert len(written) == 5 and written.manifest.clips == 3
    for number, sample in enumerate(written):
        clip = source[number]
        assert sample.caption == clip["scene_caption"]
        for name, array in sample.arrays.items():
            np.testing.assert_array_equal(array, clip[name], err_msg=name, strict=True)


def test_a_record_leads_to_its_scene_and_viewpoint(written: Dataset):
    for number, sample in enumerate(written):
        scene, viewpoint = scene_of(written.manifest, sample)
        assert scene == make_scene_2(8, number // 2, 1.0, "validation")
        assert scene.caption == sample.caption
        np.testing.assert_array_equal(sample.arrays["viewpoint"], np.tile(viewpoint, (4, 1)), strict=True)


def test_a_record_of_no_scene_is_refused(written: Dataset, tmp_path: Path):
    entry = written.samples[0]
    for clip in ("scene-2-train-8-000000", "scene-2-validation-8-000003", "film", "scene-2-validation-8-0"):
        with pytest.raises(DatasetError, match="is not of one of its scenes"):
            scene_of(written.manifest, replace(entry, clip=clip))
    other = write_dataset(tmp_path / "other", written, TINY, written.manifest.fields, [], {"made by": "hand"})
    with pytest.raises(DatasetError, match="'other' does not say which scenes"):
        scene_of(other, entry)


def test_recordings_of_other_seeds_and_splits_have_other_names(written: Dataset):
    sets = [replace(SCENES, seed=seed, split=split) for seed in (8, 81) for split in ("train", "validation")]
    names = {scenes.recording(index) for scenes in sets for index in (0, 1, 10)}
    assert len(names) == 12
    assert [entry.clip for entry in written.samples] == [SCENES.recording(index) for index in (0, 0, 1, 1, 2)]


def test_two_workers_and_other_goes_write_the_same_bytes(written: Dataset, tmp_path: Path):
    reports: list[int] = []
    out = tmp_path / "records"
    write_scene_records(out, TINY, SCENES, workers=2, progress=reports.append)
    assert reports == [0, 2, 4, 5]
    wanted = files_below(written.folder)
    assert files_below(out) == wanted
    again: list[int] = []
    write_scene_records(out, TINY, SCENES, progress=again.append)
    assert again == [5] and files_below(out) == wanted


def test_encoded_fields_are_those_of_the_encoder_and_scenes_have_one_mel(written: Dataset, tmp_path: Path):
    encoder = Means()
    write_scene_records(tmp_path / "encoded", TINY, SCENES, encoder, base_sha256="abc")
    encoded = open_dataset(tmp_path / "encoded")
    assert encoded.manifest.fields == ("clap_text", *MAP_FIELDS)
    assert encoded.manifest.settings["base_sha256"] == "abc"
    for raw, sample in zip(written, encoded, strict=True):
        text = encoder(raw.arrays["video"], raw.arrays["mel"], raw.caption)["clap_text"]
        np.testing.assert_array_equal(sample.arrays["clap_text"], text)
        np.testing.assert_array_equal(sample.arrays["saliency"], raw.arrays["saliency"])
    assert encoder.mels[0] is encoder.mels[1] and encoder.mels[1] is not encoder.mels[2]
    write_scene_records(tmp_path / "both", TINY, SCENES, Means(), keep_raw=True)
    assert open_dataset(tmp_path / "both").manifest.fields == (*RAW_FIELDS, "clap_text", *MAP_FIELDS)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"seed": 9}, "scenes.seed: 8 -> 9"), ({"records": 6}, "records: 5 -> 6"), ({"split": "train"}, "split")],
)
def test_a_dataset_of_other_scenes_is_refused(written: Dataset, change: dict, words: str):
    before = files_below(written.folder)
    with pytest.raises(DatasetError, match="other settings") as refused:
        write_scene_records(written.folder, TINY, replace(SCENES, **change))
    assert words in str(refused.value)
    assert files_below(written.folder) == before


@pytest.mark.parametrize(
    "change", [{"records": 0}, {"records": -4}, {"seed": -1}, {"split": "test"}, {"version": 1}], ids=str
)
def test_scenes_that_do_not_exist_are_refused(change: dict):
    with pytest.raises(DatasetError, match="cannot be made"):
        replace(SCENES, **change)


def test_nothing_is_written_for_clips_that_are_too_short(tiny: Config, tmp_path: Path):
    short = replace(tiny, clip=replace(tiny.clip, seconds=0.8, hop_seconds=0.8, frames_per_second=5))
    with pytest.raises(DatasetError, match="at least 1 s"):
        write_scene_records(tmp_path / "records", short, SCENES)
    with pytest.raises(DatasetError, match="0 workers"):
        write_scene_records(tmp_path / "records", tiny, SCENES, workers=0)
    assert not any(tmp_path.iterdir())
