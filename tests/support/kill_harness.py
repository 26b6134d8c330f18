"""Kills a training run at random moments and resumes it: `python -m tests.support.kill_harness IDS NETWORK train ...`.

Training runs through the command line in its own process, which also records the ids of its samples.
NETWORK is "joint" for the joint model, or "stand_in" for one of the same parameters that compiles at once.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orbax.checkpoint as ocp

from con360av_jax.cli import main
from con360av_jax.data.loader import AnyExample, Loader
from con360av_jax.runtime.compile_flags import quick_compile_flags
from tests.support.paths import ROOT
from tests.support.tiny_world import without_network, world

Moment = Literal["start", "step", "save"]
Network = Literal["joint", "stand_in"]
# A run that neither comes to the moment at which it is killed nor ends is broken, s.
PATIENCE = 300
BLINK = 0.002


@dataclass(frozen=True)
class Training:
    """One run, in pieces."""

    base: Path
    dataset: Path
    config: Path
    run: Path
    network: Network
    validation: Path | None = None
    """Held-out dataset."""

    @property
    def ids(self) -> Path:
        """The notes of all pieces: a line [number of the batch, sample ids] per batch."""
        return self.run.with_suffix(".ids")

    def launch(self, ids: Path, *options: object, prefix: Sequence[str] = ()) -> subprocess.Popen:
        """Starts a process of the run, which notes its samples in `ids`; `prefix` is a command that it is given to."""
        inputs = ("--base", self.base, "--dataset", self.dataset, "--out", self.run, "--config", self.config)
        if self.validation:
            inputs += ("--validation", self.validation)
        command = (*prefix, sys.executable, "-m", __name__, ids, self.network, "train", *inputs, *options)
        environment = {
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "XLA_FLAGS": quick_compile_flags(0),
            "XDG_CACHE_HOME": str(world() / "cache"),
        }
        return subprocess.Popen(
            [*map(str, command)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start(self, *prefix: str) -> subprocess.Popen:
        """Starts it, or goes on with it."""
        if (self.run / "run.json").is_file():
            return self.launch(self.ids, "--resume", prefix=prefix)
        # Killed before there was a run; its user starts again.
        shutil.rmtree(self.run, ignore_errors=True)
        return self.launch(self.ids, prefix=prefix)

    def finish(self, *prefix: str) -> tuple[int, str]:
        """Runs it to its end; returns exit code and output."""
        process = self.start(*prefix)
        output = process.communicate(timeout=PATIENCE)[0]
        return process.returncode, output

    def kill_at(self, moment: Moment, chance: random.Random) -> str:
        """Starts it or goes on, and kills it at that kind of moment, a random one; returns its output."""
        process = self.start()
        seen, delay = self._batches(), chance.uniform(0, 0.3)
        # When a third batch is handed out, the first step's checkpoint is complete: what was begun comes to an end.
        wanted = chance.randint(3, 5)
        reached: dict[Moment, Callable[[], bool]] = {
            "start": lambda: True,
            "step": lambda: self._batches() >= seen + wanted,
            "save": lambda: bool(self.unfinished()),
        }
        waits = 0
        while process.poll() is None and not reached[moment]() and waits < PATIENCE / BLINK:
            waits += not _ended(process, BLINK)
        # Compiling and opening take seconds, a step a fraction of one, writing files little.
        _ended(process, delay * {"start": 30, "step": 1, "save": 0.1}[moment])
        process.send_signal(signal.SIGKILL)
        output = process.communicate()[0]
        if process.returncode != -signal.SIGKILL:
            raise AssertionError(f"ended with {process.returncode} before it was killed: {output[-3000:]}")
        return output

    def unfinished(self) -> list[Path]:
        """Checkpoints that are being written, or were when the run was killed."""
        return list((self.run / "checkpoints").glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"))

    def samples(self) -> dict[int, list[int]]:
        """The sample ids of every batch; what was seen twice must have been the same."""
        found: dict[int, list[int]] = {}
        for line in self.ids.read_text().splitlines():
            number, ids = json.loads(line)
            if found.setdefault(number, ids) != ids:
                raise AssertionError(f"batch {number} held {found[number]}, then {ids}")
        return found

    def _batches(self) -> int:
        return self.ids.read_text().count("\n") if self.ids.is_file() else 0


def _ended(process: subprocess.Popen, patience: float) -> bool:
    try:
        process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        return False
    return True


def note_samples(path: Path) -> None:
    """Makes every loader of this process append to `path` what it hands out."""
    original = Loader.__next__

    def noting(loader: Loader) -> AnyExample:
        number, batch = loader.get_state(), original(loader)
        # One write of a short line: a kill leaves all of it or nothing.
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([number, batch["sample_id"].tolist()]) + "\n")
        return batch

    Loader.__next__ = noting  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    note_samples(Path(sys.argv[1]))
    with without_network() if sys.argv[2] == "stand_in" else nullcontext():
        sys.exit(main(sys.argv[3:]))
