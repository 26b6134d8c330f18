"""Training survives corrupt checkpoints and full disks; checkpoints open on other meshes."""

import gc
import itertools
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from con360av_jax.config.settings import Config, MeshConfig
from con360av_jax.errors import CheckpointError
from con360av_jax.models.joint import joint_model
from con360av_jax.sharding import make_mesh
from con360av_jax.train import checkpoint, loop
from con360av_jax.train.checkpoint import CheckpointWriter, Progress
from con360av_jax.train.optimizer import make_optimizer, select
from con360av_jax.train.run_folder import append_line
from con360av_jax.train.state import TrainState, init_state, state_shardings
from tests.support.damage import flip, small_files
from tests.support.tiny_world import leaves_equal, with_train

MESHES = {
    1: MeshConfig(),
    2: MeshConfig(fsdp=2),
    4: MeshConfig(fsdp=2, tensor=2),
    8: MeshConfig(data=2, fsdp=2, tensor=2),
}


@cache
def noise_state(config: Config, seed: int = 0) -> TrainState:
    """A state with noise in every array, in host memory; Map Encoder and FiLM are trained."""
    trainable, _ = select(joint_model(config, "float32")[1], "control")
    shapes = jax.eval_shape(lambda tree: init_state(tree, make_optimizer(config.train)), trainable)
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def on_mesh(state: TrainState, mesh: MeshConfig) -> TrainState:
    return jax.device_put(state, state_shardings(state, make_mesh(mesh)))


def save(run: Path, config: Config, *steps: int, mesh: MeshConfig | None = None) -> None:
    """Checkpoints of a run that was never made, each with noise of its own."""
    run.mkdir(exist_ok=True)
    (run / "run.json").touch()
    with CheckpointWriter(run, with_train(config, keep_checkpoints=5)) as writer:
        for step in steps:
            writer.save(
                on_mesh(noise_state(config, step), mesh or MeshConfig()), Progress(step=step, next_batch=step, seed=0)
            )


@pytest.fixture(scope="module")
def three(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints 1, 2 and 3."""
    run = tmp_path_factory.mktemp("three") / "run"
    save(run, tiny, 1, 2, 3)
    return run


@pytest.fixture
def run(three: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(three, tmp_path / "run"))


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(step: Path) -> None:
    file = largest(step / "trainable")
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "bit flipped": lambda step: flip(largest(step / "optimizer")),
    "progress flipped": lambda step: flip(step / "progress" / "metadata"),
    "file missing": lambda step: largest(step / "ema").unlink(),
    "item missing": lambda step: shutil.rmtree(step / "ema"),
    "hashes missing": lambda step: (step / "hashes.json").unlink(),
    "hashes truncated": lambda step: (step / "hashes.json").write_text("{"),
    "hashes of nothing": lambda step: (step / "hashes.json").write_text("{}"),
    "hashes no table": lambda step: (step / "hashes.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupt_newest_checkpoint_is_passed_over_named_and_saved_again(
    damage: str, run: Path, tiny: Config, caplog: pytest.LogCaptureFixture
):
    DAMAGES[damage](run / "checkpoints" / "3")
    assert checkpoint.locate(run) == (run, run / "checkpoints" / "2")
    assert checkpoint.finished_steps(run) == [1, 2, 3]
    caplog.clear()
    assert checkpoint.step_to_resume(run) == 2
    [line] = caplog.messages
    assert f"{run}/checkpoints/3 is corrupt: " in line
    assert "step 2, the newest intact one" in line
    assert checkpoint.finished_steps(run) == [1, 2]
    assert (run / "checkpoints" / "3.damaged").is_dir()
    save(run, tiny, 3, 4)
    assert checkpoint.newest_intact(run) == 4
    assert checkpoint.corruption(run / "checkpoints" / "3") == ""


def test_a_flipped_bit_in_any_file_is_found(run: Path):
    step = run / "checkpoints" / "3"
    files = [path for item in checkpoint.ITEMS for path in (step / item).rglob("*") if path.is_file()]
    assert len(files) > len(checkpoint.ITEMS)
    for file in files:
        assert checkpoint.corruption(step) == ""
        before = file.read_bytes()
        if not before:
            continue
        flip(file)
        assert checkpoint.corruption(step) == f"{file.relative_to(step)} is not what was written"
        file.write_bytes(before)


def test_orbax_notes_may_be_corrupt(run: Path, tiny: Config):
    """Orbax keeps metadata beside the items, from which nothing is read."""
    note = run / "checkpoints" / "3" / "_CHECKPOINT_METADATA"
    note.write_text("{")
    assert checkpoint.step_to_resume(run) == 3
    assert checkpoint.read_progress(run / "checkpoints" / "3").step == 3
    save(run, tiny, 4)
    assert checkpoint.newest_intact(run) == 4


def test_two_corrupt_checkpoints_are_passed_over_and_three_are_an_error(run: Path, caplog: pytest.LogCaptureFixture):
    truncate(run / "checkpoints" / "3")
    truncate(run / "checkpoints" / "2")
    assert checkpoint.step_to_resume(run) == 1
    assert len(caplog.messages) == 2
    truncate(run / "checkpoints" / "1")
    with pytest.raises(CheckpointError, match=r"no intact checkpoint: checkpoint .*/1 is corrupt: trainable"):
        checkpoint.step_to_resume(run)


def test_a_named_corrupt_checkpoint_is_refused_but_only_for_what_is_wanted_of_it(run: Path):
    step = run / "checkpoints" / "3"
    flip(largest(step / "optimizer"))
    with pytest.raises(CheckpointError, match=r"3 is corrupt \(optimizer/.* is not what was written"):
        checkpoint.locate(step)
    assert checkpoint.locate(step, ("ema", "progress")) == (run, step)
    assert checkpoint.locate(run, ("ema", "progress")) == (run, step)


def test_a_run_without_checkpoints_starts_at_the_beginning(tmp_path: Path):
    assert checkpoint.step_to_resume(tmp_path) is None


@pytest.fixture
def collected() -> Iterator[None]:
    """Orbax leaves coroutines that were never awaited, about which Python complains when it finds them: here.

    Others it keeps until the process ends, and asyncio would complain then.
    """
    yield
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    gc.collect()


@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_an_error_at_the_next_look_and_keeps_what_was_saved(run: Path, tiny: Config):
    state = on_mesh(noise_state(tiny, 4), MeshConfig())
    before = checkpoint.finished_steps(run)
    with (
        small_files(4096),
        pytest.raises(CheckpointError, match=r"checkpoints cannot be written \(.*make room and resume"),
        # One checkpoint is kept, so that a completed save would remove the others.
        CheckpointWriter(run, with_train(tiny, keep_checkpoints=1)) as writer,
    ):
        writer.save(state, Progress(step=4, next_batch=4, seed=0))
        while True:
            writer.check()
    assert checkpoint.finished_steps(run) == before
    assert checkpoint.newest_intact(run) == 3
    save(run, tiny, 4)
    assert checkpoint.newest_intact(run) == 4


@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_an_error_at_the_end_too(run: Path, tiny: Config):
    state = on_mesh(noise_state(tiny, 4), MeshConfig())
    with small_files(4096), pytest.raises(CheckpointError, match="cannot be written"):  # noqa: SIM117
        with CheckpointWriter(run, tiny) as writer:
            writer.save(state, Progress(step=4, next_batch=4, seed=0))
    assert checkpoint.newest_intact(run) == 3


def test_a_full_disk_is_an_error_for_logs_too(tmp_path: Path):
    log = tmp_path / "metrics.jsonl"
    with small_files(0), pytest.raises(CheckpointError, match=r"metrics.jsonl cannot be written \(File too large\)"):
        append_line(log, {"step": 1})
    append_line(log, {"step": 1})
    assert log.read_text() == '{"step": 1}\n'


@pytest.fixture(scope="module")
def by_devices(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same state, saved from every mesh."""
    runs = {}
    for devices, mesh in MESHES.items():
        runs[devices] = tmp_path_factory.mktemp("meshes") / "run"
        save(runs[devices], tiny, 5, mesh=mesh)
    return runs


@pytest.mark.parametrize(("written", "read"), list(itertools.permutations(MESHES, 2)))
def test_a_checkpoint_of_any_mesh_opens_on_any_other(
    written: int, read: int, by_devices: dict[int, Path], tiny: Config
):
    target = on_mesh(noise_state(tiny, 6), MESHES[read])
    state, progress = loop.restore_state(target, by_devices[written] / "checkpoints" / "5")
    wanted = replace(noise_state(tiny, 5), step=np.int32(5))
    assert leaves_equal(state, wanted)
    assert progress == Progress(step=5, next_batch=5, seed=0)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == jax.tree.map(lambda leaf: leaf.sharding, target)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {read}
