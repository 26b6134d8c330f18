"""Checkpoints that outlive the newest ones: milestones, and the one with the lowest held-out loss, by its name."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.errors import CheckpointError
from con360av_jax.train import best, checkpoint
from con360av_jax.train.checkpoint import CheckpointWriter, Progress
from con360av_jax.train.state import TrainState
from tests.support.tiny_world import with_train

# Held-out losses at steps 2, 4 ...; those that are lower than all before are at 2, 6 and 8.
LOSSES = {2: 0.9, 4: 0.95, 6: 0.5, 8: 0.4, 10: 0.6, 12: 0.4}


def state(step: int) -> TrainState:
    arrays = {"kernel": jnp.full((2,), step, jnp.float32)}
    return TrainState(step=jnp.int32(step), params=arrays, ema=arrays, opt_state=arrays)


def save(run: Path, config: Config, steps: range, losses: dict[int, float]) -> None:
    """Saves at every step and validates where there is a loss, as training does."""
    run.mkdir(exist_ok=True)
    (run / "run.json").touch()
    with CheckpointWriter(run, config) as writer:
        for step in steps:
            found = None
            if step in losses:
                with (run / best.VALIDATION).open("a") as file:
                    for weights, value in (("ema", losses[step]), ("raw", 0.01)):
                        file.write(json.dumps({"step": step, "weights": weights, "loss": value}) + "\n")
                found = best.if_lower(losses[step], step, writer.best)
            writer.save(state(step), Progress(step=step, next_batch=step, seed=0), found)


@pytest.fixture
def run(tiny: Config, tmp_path: Path) -> Path:
    save(tmp_path / "run", with_train(tiny, keep_checkpoints=2, milestone_every=5), range(1, 13), LOSSES)
    return tmp_path / "run"


def test_milestones_and_the_best_are_kept_beside_the_newest(run: Path):
    assert checkpoint.finished_steps(run) == [5, 8, 10, 11, 12]
    assert json.loads((run / "checkpoints" / "best").read_text()) == {"step": 8, "loss": 0.4}
    assert checkpoint.locate(run / "checkpoints" / "best") == (run, run / "checkpoints" / "8")
    assert checkpoint.locate(run) == (run, run / "checkpoints" / "12")


def test_the_best_is_named_only_when_complete_and_the_one_before_stays_until_then(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run, named, write = tmp_path / "run", [], best.write_best

    def noting(folder: Path, found: best.Best | None) -> None:
        if found is not None:
            steps = checkpoint.finished_steps(run)
            assert checkpoint.corruption(folder / str(found.step)) == ""
            assert not named or named[-1] in steps, "the name still points to the one before"
            named.append(found.step)
        write(folder, found)

    monkeypatch.setattr(checkpoint, "write_best", noting)
    save(run, with_train(tiny, keep_checkpoints=1), range(1, 10), LOSSES)
    assert named == [2, 6, 8]
    assert checkpoint.finished_steps(run) == [8, 9]


def test_a_resumed_run_restores_the_name_from_what_was_measured(run: Path, tiny: Config):
    """A kill can leave an old name, or one of a checkpoint that was not finished; lines after it may be dropped."""
    path = run / "checkpoints" / "best"
    for content in ('{"step": 2, "loss": 0.9}', '{"step": 99, "loss": 0.1}', "{"):
        path.write_text(content)
        with CheckpointWriter(run, tiny):
            assert json.loads(path.read_text()) == {"step": 8, "loss": 0.4}
    (run / "validation.jsonl").unlink()
    with CheckpointWriter(run, tiny) as writer:
        assert writer.best is None and not path.exists()


def test_a_resumed_run_keeps_the_best_and_finds_the_same_ones(run: Path, tiny: Config, tmp_path: Path):
    half, config = tmp_path / "half", with_train(tiny, keep_checkpoints=2, milestone_every=5)
    save(half, config, range(1, 8), LOSSES)
    moved = Path(shutil.copytree(half, tmp_path / "moved"))
    save(moved, config, range(8, 13), LOSSES)
    assert checkpoint.finished_steps(moved) == checkpoint.finished_steps(run)
    assert (moved / "checkpoints" / "best").read_bytes() == (run / "checkpoints" / "best").read_bytes()


def test_a_run_without_a_best_checkpoint_says_how_to_get_one(run: Path):
    (run / "checkpoints" / "best").write_text("{")
    with pytest.raises(CheckpointError, match="best is corrupt: resume the run to restore it"):
        checkpoint.locate(run / "checkpoints" / "best")
    (run / "checkpoints" / "best").unlink()
    with pytest.raises(CheckpointError, match=r"best does not exist: .* \(con360av train --validation DATASET\)"):
        checkpoint.locate(run / "checkpoints" / "best")


def test_losses_that_are_no_numbers_are_never_the_best(tmp_path: Path):
    save_line = {"step": 1, "weights": "ema", "loss": float("nan")}
    (tmp_path / best.VALIDATION).write_text(json.dumps(save_line) + "\n")
    assert best.lowest(tmp_path, [1]) is None
    assert best.if_lower(float("nan"), 1, None) is None
