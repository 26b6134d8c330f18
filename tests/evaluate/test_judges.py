"""Judges are opened from files and runs, write the same bytes, and con360av evaluate needs nothing but them."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import con360av_jax as c3
from con360av_jax import cli
from con360av_jax.config.settings import Config
from con360av_jax.data.source import open_dataset
from con360av_jax.errors import CheckpointError, MetricError
from con360av_jax.evaluate import judges, run
from con360av_jax.evaluate.features import open_features
from con360av_jax.evaluate.judges import open_judge, write_judge
from con360av_jax.evaluate.judging import PARTS, judge_clips, judge_frames, judge_mel, sounds_of, view_of
from con360av_jax.evaluate.protocols import SCENES
from con360av_jax.evaluate.results import read_results
from con360av_jax.evaluate.scene_truths import check_truth
from con360av_jax.evaluate.scene_truths import write_truth as write_scene_truth
from con360av_jax.scenes.ground_truth import scene_clip
from con360av_jax.scenes.records import SceneSet, scene_of, write_scene_records
from con360av_jax.scenes.scene import CLASSES
from con360av_jax.scenes.textures import PALETTES
from con360av_jax.scenes.version_2 import make_scene_2
from con360av_jax.scenes.views import seen_objects
from con360av_jax.train.pretrain import pretrain
from con360av_jax.train.pretraining_data import SceneData
from tests.support import tiny_world
from tests.support.judged_clips import tiny_judges, write_judges, write_truth
from tests.support.tiny_world import assert_same, files_below, with_part, with_train

pytestmark = pytest.mark.usefixtures("quick_compiles", "one_model")
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def config(lean: Config) -> Config:
    return tiny_judges(lean)


@pytest.fixture(scope="module")
def files(config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each judge with random weights."""
    return write_judges(tmp_path_factory.mktemp("judges"), config)


def test_a_file_gives_back_float16_weights_and_their_origin_and_is_the_same_again(
    files: dict[str, Path], tmp_path: Path
):
    for name, path in files.items():
        found = open_judge(name, path)
        assert found.card.origin == {"step": 3} and found.card.classes == CLASSES
        assert {np.asarray(leaf).dtype.name for leaf in jax.tree.leaves(found.params)} == {"float32"}
        write_judge(found, tmp_path / name)
        assert (tmp_path / name).read_bytes() == path.read_bytes()
        assert_same(open_judge(name, tmp_path / name).params, found.params)


def test_what_is_no_judge_is_refused(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CheckpointError, match="is judge_video, not judge_audio"):
        open_judge("judge_audio", files["judge_video"])
    data = files["judge_video"].read_bytes()
    (tmp_path / "cut").write_bytes(data[:-100])
    (tmp_path / "empty").write_bytes(b"")
    for path in (tmp_path / "cut", tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(CheckpointError, match=f"{path.name} is no judge"):
            open_judge("judge_video", path)
    monkeypatch.setattr(judges, "CLASSES", (*CLASSES, "dog"))
    with pytest.raises(CheckpointError, match="other classes or places"):
        open_judge("judge_video", files["judge_video"])


def test_a_run_is_a_judge_that_its_file_repeats_within_float16(config: Config, lean: Config, tmp_path: Path):
    config = with_train(config, trainable="all", batch_size=2, steps=2, checkpoint_every=2, loader_threads=0)
    config = with_part(config, "pretrain", validation_batches=1)
    base = tiny_world.base(lean)
    for name in ("judge_video", "judge_audio"):
        pretrain(config, name, base, SceneData(5), tmp_path / name)
        found = open_judge(name, tmp_path / name)
        assert found.card.origin["step"] == 2 and found.card.origin["data"] == {"scenes": 5, "version": 2}
        (tmp_path / "file").unlink(missing_ok=True)
        assert cli.main(["export", str(tmp_path / name), "--out", str(tmp_path / "file")]) == 0
        again = open_judge(name, tmp_path / "file")
        assert "run" not in again.card.origin and again.card.origin["step"] == 2
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-3), found.params, again.params)
    with pytest.raises(CheckpointError, match=r"pretrain judge_audio: give it to con360av evaluate --weights judge_a"):
        c3.load(tmp_path / "judge_audio")
    assert cli.main(["export", str(tmp_path / "judge_audio"), "--out", str(tmp_path / "file")]) == 2
    # A judge is no part of a base.
    told = ["init", "--config", "debug", "--out", str(tmp_path / "base"), "--part", f"judge_video={tmp_path}"]
    assert cli.main(told) == 2 and not (tmp_path / "base").exists()


def test_judgements_do_not_depend_on_what_else_is_in_a_batch(files: dict[str, Path], config: Config):
    judge = open_judge("judge_video", files["judge_video"])
    frames = RANDOM.integers(0, 255, (19, 16, 16, 3)).astype(np.uint8)
    rows, features = judge_frames(judge, frames)
    assert features.shape == (1, 32) and rows.dtype == features.dtype == np.float32
    np.testing.assert_array_equal(rows[17:], judge_frames(judge, frames[17:])[0])
    view = view_of(rows)
    assert view.position.shape == (19, len(CLASSES), 2) and view.place.shape == (19, len(PALETTES))
    assert (view.in_view >= 0).all() and (view.in_view <= 1).all()
    np.testing.assert_allclose(np.exp(view.place).sum(axis=1), 1)
    mel = RANDOM.normal(-6, 2, (40, config.mel.bands)).astype(np.float32)
    sounds = sounds_of(judge_mel(open_judge("judge_audio", files["judge_audio"]), mel)[0])
    assert sounds.heard.shape == (len(CLASSES),) and sounds.envelope.shape == (10, len(CLASSES))


def test_a_judge_of_other_log_mels_is_refused(files: dict[str, Path], config: Config, tmp_path: Path):
    opened = {name: open_judge(name, path) for name, path in files.items()}
    other = replace(config, mel=replace(config.mel, low_hz=50.0))
    with pytest.raises(MetricError, match="trained on other log-mels"):
        judge_clips(tmp_path, "targets", [], opened, other)


@pytest.fixture
def given(lean: Config, files: dict[str, Path], tmp_path: Path) -> list[str]:
    """Options of an evaluation with the truth of every record of the dataset."""
    folders = ["--run", str(tiny_world.run(lean)), "--dataset", str(tiny_world.dataset(lean))]
    keys = open_dataset(tiny_world.dataset(lean)).keys
    scenes = [make_scene_2(4, number, 8.0, "validation") for number in range(len(keys))]
    write_truth(tmp_path / "truth", scenes, keys)
    weights = [f"{name}={path}" for name, path in files.items()]
    options = ["--protocol", "scenes", "--weights", *weights, "--truth", str(tmp_path / "truth")]
    return ["evaluate", *folders, "--out", str(tmp_path / "eval"), "--draws", "20", "--batch-size", "2", *options]


def test_one_command_judges_both_sides_and_the_same_command_finds_the_same(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "eval"
    assert cli.main(given) == 0
    shown = capsys.readouterr().out
    assert "Fréchet distance (video judge)" in shown and "right place (judge)" in shown
    assert "FVD" not in shown and "FAD" not in shown
    results = read_results(folder)
    assert tuple(metric.name for metric in results.metrics) == run.metric_names(SCENES, truth=True)
    assert set(results.cards) == set(PARTS)
    place = results.metric("judge_place")
    assert place is not None and place.value is not None and place.clips == 5 and place.low is not None
    assert open_features(folder / "features" / "targets" / "view").values.shape == (20, 4 * len(CLASSES) + 7)
    before = files_below(folder / "features")
    assert cli.main(given) == 0
    assert read_results(folder) == results and files_below(folder / "features") == before
    next((folder / "generated").iterdir()).touch()
    assert cli.main(given) == 0
    assert read_results(folder).metrics == results.metrics and files_below(folder / "features") == before


@pytest.mark.parametrize(
    ("leave_out", "said"),
    [
        ("--truth", "make it with con360av synth-dataset, or give --truth"),
        ("--weights", "protocol scenes needs weights of judge_video and judge_audio"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_generated(
    given: list[str],
    leave_out: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(judges, "packaged", lambda name: tmp_path / name)
    monkeypatch.setattr("con360av_jax.evaluate.extraction.packaged", lambda name: tmp_path / name)
    place = given.index(leave_out)
    count = 3 if leave_out == "--weights" else 2
    assert cli.main(given[:place] + given[place + count :]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "eval").exists()


def test_a_record_without_truth_is_told_before_anything_is_generated(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    sorted((tmp_path / "truth").iterdir())[2].unlink()
    assert cli.main(given) == 2
    assert "has no truth of record fake_00" in capsys.readouterr().err
    assert not (tmp_path / "eval").exists()


def test_a_dataset_of_scenes_brings_its_own_truth(lean: Config, tmp_path: Path):
    scenes = SceneSet(records=3, seed=6, split="validation")
    manifest = write_scene_records(tmp_path / "data", lean, scenes)
    entries = open_dataset(tmp_path / "data").samples
    check_truth(None, manifest, entries)
    folder = write_scene_truth(tmp_path, manifest, entries)
    assert len(list(folder.iterdir())) == scenes.scenes
    for entry in entries:
        scene, viewpoint = scene_of(manifest, entry)
        found = scene_clip(folder, entry.key, 0.0, np.tile(viewpoint, (lean.clip.frames, 1)), 4.0)
        assert found is not None and found.place == scene.background.palette
        assert found.sounding == {item.name for item in scene.objects}
        shown = seen_objects(scene, 0.5, viewpoint)
        assert (found.requested.name if found.requested else "") == (shown[0].name if shown else "")
