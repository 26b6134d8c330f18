"""A run that is killed at random moments, also while saving, or hits a full disk, ends like an uninterrupted one."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import orbax.checkpoint as ocp
import pytest

from con360av_jax.config.files import save_config
from con360av_jax.config.settings import Config
from con360av_jax.train import checkpoint
from con360av_jax.train.best import BEST, VALIDATION
from tests.support import tiny_world
from tests.support.kill_harness import Moment, Network, Training
from tests.support.tiny_world import leaves_equal, metrics, with_train

Event: TypeAlias = Moment | Literal["full disk"]
SHORT: tuple[Event, ...] = ("step", "save", "full disk", "save")
LONG: tuple[Event, ...] = ("step", "save", "start", "save", "step") * 10
# "step" comes at most five steps and a few polls after the event before it, the others within the first ones.
SHORT_STEPS, LONG_STEPS = 16, 280


@pytest.fixture(scope="module")
def training(
    lean: Config, folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int, Network], Training]:
    """A run of `network` up to step `steps`, not started; it saves at every step and is validated at every third."""

    def make(steps: int, network: Network) -> Training:
        folder = tmp_path_factory.mktemp("kills")
        save_config(with_train(lean, steps=steps, checkpoint_every=1, validate_every=3), folder / "config.json")
        return Training(*folders, folder / "config.json", folder / "run", network, tiny_world.held_out(lean))

    return make


def finished(training: Training) -> Training:
    code, output = training.finish()
    assert code == 0, output[-3000:]
    return training


def beside(training: Training, name: str) -> Training:
    """The same run in another folder, not started."""
    return replace(training, run=training.run.parent / name)


def last_arrays(training: Training, step: int) -> dict[str, object]:
    folder = training.run / "checkpoints" / str(step)
    assert checkpoint.corruption(folder) == ""
    with ocp.StandardCheckpointer() as checkpointer:
        arrays = {name: checkpointer.restore((folder / name).resolve()) for name in checkpoint.ARRAYS}
    return {**arrays, "progress": vars(checkpoint.read_progress(folder))}


def same_end(one: Training, other: Training, steps: int) -> None:
    """Parameters, averages, optimizer and place in the data, sample ids, metrics and held-out losses, bit for bit."""
    assert leaves_equal(last_arrays(one, steps), last_arrays(other, steps))
    assert one.samples() == other.samples()
    assert sorted(one.samples()) == list(range(steps))
    assert metrics(one.run) == metrics(other.run)
    assert [line["step"] for line in metrics(one.run, VALIDATION)[::2]] == list(range(3, steps + 1, 3))
    for name in (VALIDATION, f"checkpoints/{BEST}"):
        assert (one.run / name).read_bytes() == (other.run / name).read_bytes()
    best = checkpoint.locate(one.run / "checkpoints" / BEST)[1]
    assert leaves_equal(last_arrays(one, int(best.name)), last_arrays(other, int(best.name)))


def survives(training: Training, steps: int, events: tuple[Event, ...]) -> None:
    straight, hurt = finished(training), beside(training, "hurt")
    chance, within_save, outputs = random.Random(steps), 0, []
    for event in events:
        if event == "full disk":
            outputs.append(full_disk(hurt))
        else:
            outputs.append(hurt.kill_at(event, chance))
            within_save += bool(hurt.unfinished())
    finished(hurt)
    assert within_save >= events.count("save") // 2
    # Had a checkpoint been half written under its final name, a resumed run would have said so.
    assert not [output for output in outputs if "corrupt" in output]
    assert not hurt.unfinished()
    same_end(hurt, straight, steps)


def full_disk(training: Training) -> str:
    """Continues the run while no file may exceed 12 KiB, which a checkpoint does and settings do not."""
    before = whole_steps(training)
    code, output = training.finish("bash", "-c", 'ulimit -f 12; exec "$@"', "bash")
    assert code == 2, output[-3000:]
    # Threads of the storage layer complain as well, even within the line.
    assert "con360av: error: " in output
    assert "cannot be written" in output
    assert "make room and resume" in output
    assert before
    assert whole_steps(training) == before
    return output


def whole_steps(training: Training) -> list[int]:
    """Steps of the intact checkpoints: a kill may leave an old one half removed."""
    steps = checkpoint.finished_steps(training.run)
    return [step for step in steps if not checkpoint.corruption(training.run / "checkpoints" / str(step))]


def test_kills_and_a_full_disk_change_nothing(training: Callable[[int, Network], Training]):
    """Uses a stand-in network; everything else is as in a real run."""
    survives(training(SHORT_STEPS, "stand_in"), SHORT_STEPS, SHORT)


@pytest.mark.slow
def test_fifty_kills_change_nothing(training: Callable[[int, Network], Training]):
    survives(training(LONG_STEPS, "joint"), LONG_STEPS, LONG)
