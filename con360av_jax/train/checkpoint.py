"""Checkpoints of a run: what training changes, written in the background and verified by hashes when read.

RUN/checkpoints/STEP/             trainable, ema, optimizer: arrays that open on any mesh (Orbax)
                STEP/progress     step, state of the data order (one number), seed
                STEP/hashes.json  SHA-256 of every file of these, written before the folder gets its name: a
                                  checkpoint without it, or whose files differ from it, is corrupt
RUN/checkpoints/STEP.damaged/     a corrupt checkpoint, moved aside by a resumed run
RUN/checkpoints/best              name of the checkpoint with the lowest held-out loss (train/best.py)
"""

import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, CustomSteps, EveryNSteps, LatestN

from con360av_jax.config.settings import Config
from con360av_jax.errors import CheckpointError, first_line
from con360av_jax.models.functional import Params
from con360av_jax.runtime.files import write_text
from con360av_jax.runtime.provenance import file_sha256
from con360av_jax.train.best import BEST, Best, lowest, read_best, write_best
from con360av_jax.train.state import TrainState

ARRAYS = ("trainable", "ema", "optimizer")
ITEMS = (*ARRAYS, "progress")
HASHES = "hashes.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """State of a run besides its arrays."""

    step: int
    """Number of training steps done."""
    next_batch: int
    """State of the loader: number of the next batch."""
    seed: int
    """Seed of the run; the key of step s is fold_in(key(seed), s)."""
    skips: int = 0
    """Number of consecutive steps up to this one that were skipped."""


class CheckpointWriter:
    """Context manager that writes RUN/checkpoints/STEP in the background; keeps the newest, milestones and the best.

    Leaving it waits until everything is on disk. An older checkpoint is removed only after a newer one is
    complete. Every method, and leaving, raises CheckpointError if a checkpoint could not be written, such as on
    a full disk, now or since the last call.
    """

    def __init__(self, run: Path, config: Config):
        self._folder = (run / "checkpoints").resolve()
        self._step = 0
        self.best: Best | None = lowest(run, finished_steps(run))
        """Best checkpoint so far, the one being written included."""
        self._unnamed: Best | None = None
        every = config.train.milestone_every
        self._always = [LatestN(config.train.keep_checkpoints), *([EveryNSteps(every)] if every else [])]
        self._policy = AnyPreservationPolicy(self._always)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            enable_async_checkpointing=True,
            create=True,
            cleanup_tmp_directories=True,
            # The rest of old checkpoints' metadata is not needed and may be corrupt.
            lightweight_initialize=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_hashes),
        )
        with self._explained():
            self._manager = ocp.CheckpointManager(self._folder, options=options, item_names=ITEMS)
        if jax.process_index() == 0:
            write_best(self._folder, self.best)

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with self._explained():
            try:
                self._manager.wait_until_finished()
                self._name_best()
            finally:
                self._manager.close()

    def save(self, state: TrainState, progress: Progress, best: Best | None = None) -> None:
        """Starts writing one checkpoint, `best` if it is the best; the state may be donated as soon as this returns."""
        items = {name: ocp.args.StandardSave(tree) for name, tree in arrays_of(state).items()}
        with self._explained():
            # The save before this one needs the old step number for its hashes.
            self._manager.wait_until_finished()
            self._name_best()
            self._step, self._unnamed = progress.step, best
            # The file names the old one until the new one is complete.
            self._policy.policies = [*self._always, CustomSteps([one.step for one in (self.best, best) if one])]
            self.best = best or self.best
            self._manager.save(
                progress.step, args=ocp.args.Composite(**items, progress=ocp.args.JsonSave(asdict(progress)))
            )

    def check(self) -> None:
        """Raises if writing the last checkpoint failed; does not wait for one that is still being written."""
        if not self._manager.is_saving_in_progress():
            with self._explained():
                self._manager.wait_until_finished()
                self._name_best()

    def _name_best(self) -> None:
        """Writes RUN/checkpoints/best when the checkpoint it names is complete."""
        if self._unnamed is not None and jax.process_index() == 0:
            write_best(self._folder, self._unnamed)
        self._unnamed = None

    def _write_hashes(self) -> None:
        """Callback of Orbax, in its own thread on process 0, when all files of a checkpoint are complete."""
        # Where the storage can rename, the folder gets its final name after this.
        aside = sorted(self._folder.glob(f"{self._step}{ocp.utils.TMP_DIR_SUFFIX}*"))
        write_hashes(aside[-1] if aside else self._folder / str(self._step))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            # Orbax's storage layer answers a full disk with any of these.
            raise CheckpointError(
                f"a checkpoint in {self._folder} cannot be written ({first_line(error)}): make room and resume; the "
                "checkpoints before it are still there"
            ) from error


def arrays_of(state: TrainState) -> Params:
    """Returns the arrays of a state by the name of their item in a checkpoint."""
    return {"trainable": state.params, "ema": state.ema, "optimizer": state.opt_state}


def write_hashes(step_folder: Path) -> None:
    """Writes the SHA-256 of every file of a checkpoint's items to hashes.json beside them."""
    files = sorted(path for item in ITEMS for path in (step_folder / item).rglob("*") if path.is_file())
    hashes = {path.relative_to(step_folder).as_posix(): file_sha256(path) for path in files}
    write_text(step_folder / HASHES, json.dumps(hashes, indent=1) + "\n")


def corruption(step_folder: Path, items: Collection[str] = ITEMS) -> str:
    """Describes the first missing or changed file of a checkpoint's `items`; returns "" if they are intact."""
    try:
        hashes = json.loads((step_folder / HASHES).read_text(encoding="utf-8"))
        wanted = {name: digest for name, digest in hashes.items() if name.split("/")[0] in items}
    except (OSError, ValueError, AttributeError) as error:
        return f"{HASHES} is missing or unreadable ({first_line(error)})"
    if absent := sorted(set(items) - {name.split("/")[0] for name in wanted}):
        return f"{absent[0]} is missing in {HASHES}"
    for name, digest in wanted.items():
        if not (step_folder / name).is_file():
            return f"{name} is missing"
        if file_sha256(step_folder / name) != digest:
            return f"{name} is not what was written"
    return ""


def locate(path: Path, items: Collection[str] = ITEMS) -> tuple[Path, Path]:
    """Returns the run folder and the step folder for `path`: RUN, RUN/checkpoints/STEP or RUN/checkpoints/best.

    For a run, the newest step whose `items` are intact is chosen; a warning names newer corrupt ones.

    Raises:
        CheckpointError: there is no such run, or it has no intact checkpoint.
    """
    if (path.parent.name, path.name) == ("checkpoints", BEST):
        path = path.parent / str(read_best(path).step)
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist: give a pretrained folder, a run or RUN/checkpoints/STEP")
    if (path / "run.json").is_file():
        step = newest_intact(path, items)
        if step is None:
            raise CheckpointError(f"{path} has no finished checkpoint yet: train it first")
        return path, path / "checkpoints" / str(step)
    run = path.resolve().parent.parent
    if path.resolve().parent.name != "checkpoints" or not (run / "run.json").is_file():
        raise CheckpointError(
            f"{path} is not a pretrained folder (report.json), a run (run.json) or RUN/checkpoints/STEP"
        )
    if not path.name.isdigit() or int(path.name) not in finished_steps(run):
        raise CheckpointError(f"{path} is not a finished checkpoint; {run} has steps {finished_steps(run)}")
    if why := corruption(path, items):
        raise CheckpointError(f"{path} is corrupt ({why}); {run} has steps {finished_steps(run)}")
    return run, path


def finished_steps(run: Path) -> list[int]:
    """Returns the steps of the finished checkpoints of a run, ascending, corrupt ones included."""
    folder = run / "checkpoints"
    return sorted(ocp.utils.checkpoint_steps(folder.resolve())) if folder.is_dir() else []


def newest_intact(run: Path, items: Collection[str] = ITEMS) -> int | None:
    """Returns the newest step whose `items` are intact, or None if the run has no finished checkpoint at all.

    A warning names newer corrupt ones. Raises CheckpointError if all checkpoints are corrupt.
    """
    corrupt = []
    for step in reversed(finished_steps(run)):
        why = corruption(run / "checkpoints" / str(step), items)
        if not why:
            for line in corrupt:
                logger.warning("%s; step %d, the newest intact one, is used instead", line, step)
            return step
        corrupt.append(f"checkpoint {run / 'checkpoints' / str(step)} is corrupt: {why}")
    if corrupt:
        raise CheckpointError(f"{run} has no intact checkpoint: {'; '.join(corrupt)}")
    return None


def step_to_resume(run: Path) -> int | None:
    """Returns `newest_intact`, the same on every process, and moves newer, corrupt checkpoints aside.

    Their steps can then be saved again.
    """
    none, failed = -1, -2
    found, failure = none, None
    if jax.process_index() == 0:
        try:
            step = newest_intact(run)
            found = none if step is None else step
            _move_aside(run / "checkpoints", [number for number in finished_steps(run) if number > found])
        except (CheckpointError, OSError) as error:
            # The other processes wait for an answer.
            found, failure = failed, error
    if jax.process_count() > 1:
        found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
    if failure is not None:
        raise failure
    if found == failed:
        raise CheckpointError(f"{run} has no intact checkpoint; the error of process 0 says why")
    return None if found == none else found


def _move_aside(checkpoints: Path, steps: Collection[int]) -> None:
    for step in steps:
        aside = checkpoints / f"{step}.damaged"
        shutil.rmtree(aside, ignore_errors=True)
        (checkpoints / str(step)).rename(aside)


def read_progress(step_folder: Path) -> Progress:
    """Reads the progress of a checkpoint; raises CheckpointError if it is corrupt."""
    restored = _restore(step_folder, {"progress": ocp.args.JsonRestore()})["progress"]
    try:
        return Progress(**restored)
    except TypeError as error:
        raise CheckpointError(f"{step_folder} is corrupt: progress is {restored!r}") from error


def read_arrays(step_folder: Path, wanted: Mapping[str, Params]) -> dict[str, Params]:
    """Reads items of a checkpoint directly into the shardings of `wanted`.

    Args:
        step_folder: RUN/checkpoints/STEP, written on any mesh.
        wanted: item name -> pytree of jax.ShapeDtypeStruct with shardings.

    Raises:
        CheckpointError: an item is missing, corrupt or has other names or shapes.
    """
    return _restore(step_folder, {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()})


def _restore(step_folder: Path, items: Mapping[str, ocp.args.CheckpointArgs]) -> dict:
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(*items)) as checkpointer:
        try:
            restored = checkpointer.restore(step_folder.resolve(), args=ocp.args.Composite(**items))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint {step_folder} is corrupt or of another model ({first_line(error)})"
            ) from error
    corrupt = [name for name in items if restored[name] is None]
    if corrupt:
        raise CheckpointError(f"checkpoint {step_folder} is corrupt: {', '.join(corrupt)} is missing")
    return {name: restored[name] for name in items}


def abstract(tree: Params) -> Params:
    """Returns the shapes, dtypes and shardings of a pytree of arrays as jax.ShapeDtypeStruct."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)
