"""Two real processes train like one with two devices: equal losses, one checkpoint, also when killed and resumed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from con360av_jax.config.files import save_config
from con360av_jax.config.settings import Config, MeshConfig
from con360av_jax.errors import ShardingError
from con360av_jax.runtime.compile_flags import quick_compile_flags
from con360av_jax.train.cluster import Cluster, join
from con360av_jax.train.loop import train
from tests.support import kill_harness, tiny_world
from tests.support.kill_harness import Network
from tests.support.paths import ROOT
from tests.support.tiny_world import with_train

# The sum over two devices is taken by Gloo instead of in memory, in float32.
ROUNDING = 1e-5
PATIENCE = 300


@pytest.fixture(scope="module")
def config(tiny: Config) -> Config:
    lean = with_train(tiny_world.lean(tiny), checkpoint_every=2, steps=4)
    return replace(lean, mesh=MeshConfig(data=2))


@pytest.fixture(scope="module")
def folders(tiny: Config) -> tuple[Path, Path]:
    lean = tiny_world.lean(tiny)
    return tiny_world.base(lean), tiny_world.dataset(lean)


def start(
    folders: tuple[Path, Path], config: Path, run: Path, network: Network, *options: str
) -> list[subprocess.Popen]:
    """Both processes of one run, one device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base, dataset = folders
    options += ("--config", str(config), "--coordinator", f"127.0.0.1:{port}")
    options += ("--base", str(base), "--dataset", str(dataset), "--out", str(run))
    flags = {
        "XLA_FLAGS": quick_compile_flags(0),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XDG_CACHE_HOME": str(tiny_world.world() / "cache"),
    }
    return [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                kill_harness.__name__,
                f"{run}.{number}.ids",
                network,
                "train",
                *options,
                "--processes",
                "2",
                "--process-id",
                str(number),
            ],
            cwd=ROOT,
            env={**os.environ, **flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]


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
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


@pytest.mark.parametrize("network", ["stand_in", pytest.param("joint", marks=pytest.mark.slow)])
def test_two_processes_train_as_one_with_two_devices_and_resume_after_both_were_killed(
    network: Network, config: Config, folders: tuple[Path, Path], tmp_path: Path
):
    """Uses a stand-in network, whose step exchanges the same: gradients and loss (test_wire)."""
    settings, run = tmp_path / "config.json", tmp_path / "run"
    save_config(config, settings)
    with tiny_world.quick_compiles(), tiny_world.without_network() if network == "stand_in" else nullcontext():
        train(config, *folders, tmp_path / "alone")
    alone = losses(tmp_path / "alone")
    assert finish(start(folders, settings, run, network, "--config.train.steps", "2")) == [0, 0]
    assert losses(run) == pytest.approx(alone[:2], rel=ROUNDING)

    endless = ("--config.train.steps", "9999", "--config.train.checkpoint_every", "9999")
    processes = start(folders, settings, run, network, "--resume", *endless)
    kill_at_line(3, run / "metrics.jsonl", processes)
    assert finish(processes) == [-signal.SIGKILL] * 2
    assert len(losses(run)) >= 3

    assert finish(start(folders, settings, run, network, "--resume")) == [0, 0]
    assert losses(run) == pytest.approx(alone, rel=ROUNDING)
    assert sorted(path.name for path in (run / "checkpoints").iterdir() if path.name.isdigit()) == ["2", "4"]


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
