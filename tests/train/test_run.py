"""Training runs: resuming changes nothing, meshes change nothing, stops are clean, wrong folders are refused."""

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from con360av_jax.base.pretrained import open_pretrained
from con360av_jax.base.random import create_random
from con360av_jax.cli import main
from con360av_jax.config.settings import Config, MeshConfig
from con360av_jax.data.fake import ALL_FIELDS, fake_sample
from con360av_jax.data.writer import write_dataset
from con360av_jax.errors import CheckpointError, ConfigError, DatasetError, ShardingError
from con360av_jax.sharding import make_mesh
from con360av_jax.train import checkpoint, loop, run_folder
from con360av_jax.train.loop import load_state, train
from con360av_jax.train.program import CompiledStep
from tests.support import tiny_world
from tests.support.tiny_world import TIMING, leaves_equal, metrics, with_train

# Float32 sums over the batch and over split channels are taken in another order on another mesh. Adam divides by a root
# that is close to zero for some parameters, so after an update a last digit can be a larger part of it.
ROUNDING = 1e-5
UPDATE_ROUNDING = 2e-2


@pytest.fixture(scope="module", autouse=True)
def quick_compiles() -> Iterator[None]:
    """Caches compiled steps by mesh: runs here differ only in when they stop and save."""
    steps, build = {}, loop.compile_step

    def compile_step(config: Config, *arguments, **options) -> CompiledStep:
        if config.mesh not in steps:
            steps[config.mesh] = build(config, *arguments, **options)
        return steps[config.mesh]

    with tiny_world.quick_compiles(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "compile_step", compile_step)
        yield


@pytest.fixture(scope="module")
def config(lean: Config) -> Config:
    return with_train(lean, keep_checkpoints=5)


@pytest.fixture(scope="module")
def uninterrupted(config: Config, folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert train(config, *folders, run) is None
    return run


@pytest.fixture(scope="module")
def stopped(config: Config, folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that received SIGTERM in its second step and was killed later while writing metrics."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    place, calls = loop.on_mesh, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return place(*arguments)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "on_mesh", stopping)
        assert train(with_train(config, checkpoint_every=3), *folders, run) is signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(calls) == 2
    line = (run / "metrics.jsonl").read_text().splitlines()[-1].replace('"step": 2', '"step": 3')
    with (run / "metrics.jsonl").open("a") as file:
        file.write(line + "\n" + line[:20])
    return run


@pytest.fixture
def half(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the stopped run to continue."""
    return Path(shutil.copytree(stopped, tmp_path / "half"))


def everything(run: Path, step: int, config: Config, base: Path) -> dict:
    """All arrays of a checkpoint and its progress."""
    state, _ = load_state(config, open_pretrained(base), make_mesh(config.mesh))
    wanted = {name: checkpoint.abstract(tree) for name, tree in checkpoint.arrays_of(state).items()}
    folder = run / "checkpoints" / str(step)
    return {**checkpoint.read_arrays(folder, wanted), "progress": vars(checkpoint.read_progress(folder))}


def test_sigterm_saves_the_step_at_hand(stopped: Path):
    assert checkpoint.finished_steps(stopped) == [2]
    here = checkpoint.read_progress(stopped / "checkpoints" / "2")
    assert here == checkpoint.Progress(step=2, next_batch=2, seed=0, skips=0)


def test_resume_equals_uninterrupted_run(config: Config, folders: tuple[Path, Path], uninterrupted: Path, half: Path):
    assert train(config, *folders, half, resume=True) is None
    resumed, straight = everything(half, 4, config, folders[0]), everything(uninterrupted, 4, config, folders[0])
    assert leaves_equal(resumed, straight)
    assert resumed["progress"] == {"step": 4, "next_batch": 4, "seed": 0, "skips": 0}
    assert [line["step"] for line in metrics(half)] == [1, 2, 3, 4]
    assert metrics(half) == metrics(uninterrupted)


def test_training_changes_parameters_and_average_and_keeps_the_base(
    config: Config, folders: tuple[Path, Path], uninterrupted: Path
):
    before, _ = load_state(config, open_pretrained(folders[0]), make_mesh(config.mesh))
    after = everything(uninterrupted, 4, config, folders[0])
    assert not leaves_equal(after["trainable"], before.params)
    assert not leaves_equal(after["ema"], before.ema)
    assert not leaves_equal(after["ema"], after["trainable"])
    assert set(after["trainable"]) == {"film", "map_encoder"}
    assert checkpoint.finished_steps(uninterrupted) == [2, 4]


def test_metrics_add_up(config: Config, uninterrupted: Path):
    for line in metrics(uninterrupted):
        assert line["loss"] == pytest.approx(line["loss_audio"] + line["loss_video"], rel=1e-6)
        assert line["learning_rate"] == pytest.approx(config.train.learning_rate)
        assert set(TIMING) | {"gradient_norm", "loss_by_timestep"} <= {*line, *TIMING}


def test_a_run_goes_on_over_eight_devices_with_the_same_losses(
    config: Config, folders: tuple[Path, Path], uninterrupted: Path, half: Path
):
    spread = replace(config, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    train(spread, *folders, half, resume=True)
    one, eight = metrics(uninterrupted), metrics(half)
    for name in ("loss", "loss_audio", "loss_video"):
        for step in (2, 3):
            assert eight[step][name] == pytest.approx(one[step][name], rel=ROUNDING)
    # Terms that nearly cancel: where losses agree to 1e-7, norms of other steps and meshes differ by up to 9e-4.
    assert eight[2]["gradient_norm"] == pytest.approx(one[2]["gradient_norm"], rel=1e-3)
    before = everything(uninterrupted, 2, config, folders[0])["trainable"]
    after = everything(uninterrupted, 4, config, folders[0])["trainable"]
    spread_after = everything(half, 4, spread, folders[0])["trainable"]
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(spread_after)} == {8}
    assert distance(spread_after, after) < UPDATE_ROUNDING * distance(after, before)


def distance(one: dict, other: dict) -> float:
    """L2 norm of the difference of two trees."""
    squares = jax.tree.map(lambda a, b: float(np.square(np.asarray(a) - np.asarray(b)).sum()), one, other)
    return sum(jax.tree.leaves(squares)) ** 0.5


def refused(error: type[Exception], words: str, *arguments, **options) -> None:
    with pytest.raises(error, match=words) as caught:
        train(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_an_existing_run_is_not_overwritten(config: Config, folders: tuple[Path, Path], half: Path):
    before = tiny_world.files_below(half)
    refused(CheckpointError, "already exists: add --resume", config, *folders, half)
    assert tiny_world.files_below(half) == before


def test_resuming_names_what_does_not_fit(config: Config, folders: tuple[Path, Path], half: Path, tmp_path: Path):
    base, dataset = folders
    other = with_train(config, learning_rate=5.0, batch_size=8)
    refused(CheckpointError, "train.batch_size: 4 -> 8; train.learning_rate: .* -> 5", other, *folders, half,
            resume=True)  # fmt: skip
    refused(CheckpointError, "is not a training run", config, *folders, tmp_path / "nothing", resume=True)
    refused(CheckpointError, "is missing or not a pretrained folder", config, tmp_path, dataset, half, resume=True)
    another = tmp_path / "another"
    create_random(another, config, seed=4)
    refused(CheckpointError, "is not the base that", config, another, dataset, half, resume=True)
    changed = tmp_path / "changed"
    shutil.copytree(dataset, changed)
    manifest = json.loads((changed / "manifest.json").read_text())
    (changed / "manifest.json").write_text(json.dumps({**manifest, "name": "changed"}))
    refused(CheckpointError, "is not the dataset that", config, base, changed, half, resume=True)


def test_a_run_goes_on_with_a_dataset_that_has_grown_if_that_is_allowed(
    config: Config, folders: tuple[Path, Path], half: Path, tmp_path: Path
):
    grown = tmp_path / "grown"
    samples = (fake_sample(config, number) for number in range(tiny_world.RECORDS + 1))
    write_dataset(grown, samples, config, ALL_FIELDS, [], {"made by": "tests"})
    refused(CheckpointError, "5 -> 6 samples", config, folders[0], grown, half, resume=True)
    train(config, folders[0], grown, half, resume=True, allowed=["dataset"])
    assert [line["step"] for line in metrics(half)][-1] == config.train.steps
    assert run_folder.open_run(half).dataset.samples == tiny_world.RECORDS + 1


def test_control_behind_connectors_that_do_nothing_is_refused(
    config: Config, folders: tuple[Path, Path], tmp_path: Path
):
    """A fresh base has connectors that are the identity: frozen, they would let no gradient through."""
    fresh = create_random(tmp_path / "fresh", config, seed=4)
    message = "would never learn: the 8 connectors .* --config.train.trainable connectors, or a base with trained"
    refused(ConfigError, message, config, fresh.folder, folders[1], tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for trainable in ("connectors", "(connector|environment_encoder)/.*"):
        load_state(with_train(config, trainable=trainable), fresh, make_mesh(config.mesh))


@pytest.mark.parametrize("file", ["optimizer/_METADATA", "progress/metadata"])
def test_a_corrupt_checkpoint_is_named(file: str, config: Config, folders: tuple[Path, Path], half: Path):
    path = half / "checkpoints" / "2" / file
    path.write_bytes(path.read_bytes()[:10])
    refused(CheckpointError, "checkpoints/2 is corrupt", config, *folders, half, resume=True)


def test_a_corrupt_newest_checkpoint_costs_time_only(
    config: Config, folders: tuple[Path, Path], uninterrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    (run / "checkpoints" / "4" / "progress" / "metadata").unlink()
    train(config, *folders, run, resume=True)
    assert "checkpoints/4 is corrupt: progress/metadata is missing; step 2, " in caplog.text
    assert leaves_equal(everything(run, 4, config, folders[0]), everything(uninterrupted, 4, config, folders[0]))
    assert metrics(run) == metrics(uninterrupted)


def test_epochs_are_steps_over_all_records(
    config: Config, folders: tuple[Path, Path], uninterrupted: Path, half: Path, tmp_path: Path
):
    """Three passes over five records are 15 samples: four batches of four, as many as the uninterrupted run has."""
    assert (tiny_world.RECORDS, config.train.batch_size, config.train.steps) == (5, 4, 4)
    epochs, run = with_train(config, steps=0, epochs=3), tmp_path / "run"
    train(epochs, *folders, run)
    train(epochs, *folders, half, resume=True)
    for folder in (run, half):
        assert run_folder.open_run(folder).config == config
        assert metrics(folder) == metrics(uninterrupted)
        assert leaves_equal(everything(folder, 4, config, folders[0]), everything(uninterrupted, 4, config, folders[0]))


@pytest.mark.parametrize(("records", "steps"), [(1, 1), (4, 2), (5, 3), (8, 4), (9, 5)])
def test_the_last_batch_of_the_epochs_is_a_whole_one(config: Config, records: int, steps: int):
    train_settings = with_train(config, steps=0, epochs=2).train.in_steps(records)
    assert (train_settings.steps, train_settings.epochs) == (steps, 0)
    assert config.train.in_steps(records) == config.train


def test_settings_that_are_named_may_differ(config: Config, folders: tuple[Path, Path], half: Path):
    run = run_folder.open_run(half)
    other = with_train(config, learning_rate=5.0, schedule="cosine")
    with pytest.raises(CheckpointError, match="add --allow train.learning_rate --allow train.schedule") as caught:
        run_folder.require_same_run(run, other, *folders)
    assert "train.schedule: constant -> cosine" in str(caught.value)
    with pytest.raises(CheckpointError, match="another config: train.schedule:") as caught:
        run_folder.require_same_run(run, other, *folders, ["train.learning_rate"])
    assert "train.learning_rate" not in str(caught.value)
    run_folder.require_same_run(run, other, *folders, ["train.learning_rate", "train.schedule"])
    everything_free = with_train(config, steps=9, log_every=5, checkpoint_every=3, on_nan="skip", max_skips=3)
    run_folder.require_same_run(run, everything_free, *folders)


def test_settings_that_shapes_or_samples_depend_on_cannot_be_allowed(
    config: Config, folders: tuple[Path, Path], half: Path
):
    run = run_folder.open_run(half)
    other = with_train(config, trainable="connectors")
    with pytest.raises(CheckpointError, match="checkpoints depend on train.trainable, which cannot be allowed"):
        run_folder.require_same_run(run, other, *folders)
    fixed = ("train.trainable", "train", "model.connector.channels", "clip", "mel.bands", "train.batch_size")
    for path in (*fixed, "train.seed"):
        with pytest.raises(ConfigError, match=f"--allow {path} is not possible: checkpoints depend on"):
            run_folder.require_same_run(run, other, *folders, [path])
    with pytest.raises(ConfigError, match="--allow train.learning is not a setting"):
        run_folder.require_same_run(run, other, *folders, ["train.learning"])


def test_the_command_line_allows_several_settings(
    folders: tuple[Path, Path], half: Path, capsys: pytest.CaptureFixture[str]
):
    base, dataset = map(str, folders)
    command = ["train", "--base", base, "--dataset", dataset, "--out", str(half), "--resume"]
    changes = ["--config.train.learning-rate", "5", "--config.train.clip-norm", "2", "--config.train.seed", "1"]
    assert main([*command, *changes, "--allow", "train.learning_rate", "--allow", "train.clip_norm"]) == 2
    assert "another config: train.seed: 0 -> 1" in capsys.readouterr().err


def test_a_wrong_start_leaves_nothing_behind(config: Config, folders: tuple[Path, Path], tmp_path: Path):
    base, dataset = folders
    run = tmp_path / "run"
    wide = tiny_world.with_part(config, "model.connector", channels=32)
    refused(CheckpointError, "model.connector.channels: 16 -> 32", wide, base, dataset, run)
    refused(DatasetError, "does not exist", config, base, tmp_path / "nothing", run)
    refused(CheckpointError, str(tmp_path / "no base"), config, tmp_path / "no base", dataset, run)
    refused(ShardingError, "needs 16 devices", replace(config, mesh=MeshConfig(data=16)), base, dataset, run)
    refused(ShardingError, "does not divide", replace(config, mesh=MeshConfig(data=8)), base, dataset, run)
    assert list(tmp_path.iterdir()) == []
