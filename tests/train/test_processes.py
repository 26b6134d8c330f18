"""Two real processes train like one with two devices: equal losses, one checkpoint, also when killed and resumed."""

import signal
import socket
import subprocess
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from con360av_jax.config.files import save_config
from con360av_jax.config.settings import Config, MeshConfig
from con360av_jax.errors import ShardingError
from con360av_jax.train.best import VALIDATION
from con360av_jax.train.cluster import Cluster, join
from con360av_jax.train.loop import train
from tests.support import tiny_world
from tests.support.kill_harness import PATIENCE, Network, Training
from tests.support.tiny_world import metrics, with_train

# The sum over two devices is taken by Gloo instead of in memory, in float32.
ROUNDING = 1e-5


def start(training: Training, *options: str) -> list[subprocess.Popen]:
    """Both processes of one run, one device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options += ("--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process-id")
    return [training.launch(Path(f"{training.run}.{number}.ids"), *options, number) for number in range(2)]


def finish(processes: list[subprocess.Popen]) -> list[int]:
    """Returns the exit codes of the processes."""
    try:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    except subprocess.TimeoutExpired:
        for process in processes:
            process.kill()
        pytest.fail("\n".join(process.communicate()[0][-3000:] for process in processes))
    codes = [process.returncode for process in processes]
    if any(code > 0 for code in codes):
        pytest.fail("\n".join(output[-3000:] for output in outputs))
    return codes


def kill_at_line(count: int, path: Path, processes: list[subprocess.Popen]) -> None:
    """Kills the processes once one of them has written that many lines, or has stopped by itself."""
    while len(path.read_text().splitlines()) < count and all(process.poll() is None for process in processes):
        threading.Event().wait(0.05)
    for process in processes:
        process.kill()


def losses(run: Path) -> list[float]:
    lines = metrics(run)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


@pytest.mark.parametrize("network", ["stand_in", pytest.param("joint", marks=pytest.mark.slow)])
def test_two_processes_train_as_one_with_two_devices_and_resume_after_both_were_killed(
    network: Network, lean: Config, folders: tuple[Path, Path], tmp_path: Path
):
    """Uses a stand-in network, whose step exchanges the same: gradients and loss (test_wire)."""
    # Sampling with the joint model would have to compile here.
    sample_every = 4 if network == "stand_in" else 0
    config = with_train(lean, checkpoint_every=2, steps=4, validate_every=2, sample_every=sample_every, sample_clips=3)
    config = replace(config, mesh=MeshConfig(data=2))
    settings, run, held_out = tmp_path / "config.json", tmp_path / "run", tiny_world.held_out(lean)
    save_config(config, settings)
    training = Training(*folders, settings, run, network, held_out)
    with tiny_world.quick_compiles(), tiny_world.without_network() if network == "stand_in" else nullcontext():
        train(config, *folders, tmp_path / "alone", validation=held_out)
    alone = losses(tmp_path / "alone")
    assert finish(start(training, "--config.train.steps", "2")) == [0, 0]
    assert losses(run) == pytest.approx(alone[:2], rel=ROUNDING)

    # The kill comes at some step after the third: none of them saves anything.
    endless = [word for name in ("steps", "checkpoint_every", "validate_every", "sample_every")
               for word in (f"--config.train.{name}", "9999")]  # fmt: skip
    processes = start(training, "--resume", *endless)
    kill_at_line(3, run / "metrics.jsonl", processes)
    assert finish(processes) == [-signal.SIGKILL] * 2
    assert len(losses(run)) >= 3

    assert finish(start(training, "--resume")) == [0, 0]
    assert losses(run) == pytest.approx(alone, rel=ROUNDING)
    assert sorted(path.name for path in (run / "checkpoints").iterdir() if path.name.isdigit()) == ["2", "4"]
    measured, wanted = (metrics(folder, VALIDATION) for folder in (run, tmp_path / "alone"))
    assert [(line["step"], line["weights"]) for line in measured] == [(s, w) for s in (2, 4) for w in ("ema", "raw")]
    for line, other in zip(measured, wanted, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=ROUNDING)
    if sample_every:
        clips, others = (tiny_world.files_below(folder / "samples").keys() for folder in (run, tmp_path / "alone"))
        assert clips == others and len(clips) == 3 * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "localhost:1"}, "belong together"),
        ({"coordinator": "localhost:1", "processes": 2, "process_id": 2}, "not one of --processes 2"),
        ({"distributed": True, "processes": 2}, "not both"),
    ],
)
def test_incomplete_clusters_are_refused(options: dict, message: str):
    with pytest.raises(ShardingError, match=message):
        join(Cluster(**options))


def test_a_run_of_one_process_joins_nobody():
    join(Cluster())
    assert not jax.distributed.is_initialized()
