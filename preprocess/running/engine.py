"""Runs the stages over many inputs: in this process, or by Ray Data on this machine or a cluster.

Ray Data gets one row per input. Consecutive stages that all use a GPU, or all use none, form a group with its own pool
of worker processes. Segments stream from group to group through Ray's object store; this process receives only which
segments are stored or rejected, in the order of the inputs. A worker that dies costs its input, not the run.
"""

import logging
import os
import pickle
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import groupby
from typing import TypeAlias

from con360av_jax.config.settings import require
from con360av_jax.errors import DatasetError
from preprocess.inputs import Input
from preprocess.stages.work import Rejection, Stage, Work, chained

# One column, "work", pickled: only between processes of one run, never in a file.
Rows: TypeAlias = dict[str, list]

# Enough for file names and results; panoramas on their way to a GPU need Ray's own, larger default.
SMALL_STORE_BYTES = 128 * 2**20
# A file on which a worker died is tried once more, in case something else killed the worker.
RETRIES = 1
DIED = "a worker process died twice on this file; it may be too large for the memory, or crash its decoder"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Processes that run the stages."""

    workers: int = 1
    """Processes for stages without a GPU; 0 runs all stages in this process, without Ray."""
    address: str = ""
    """Address of a Ray cluster; if empty, Ray starts on this machine and ends with the run."""
    gpus_per_stage: float = 0.0
    """GPUs, or share of one, for each process of a stage that uses a GPU; 0 runs all stages on CPUs."""

    def __post_init__(self):
        require(self.workers >= 0, f"--workers is {self.workers}; give 0 or more")
        require(self.gpus_per_stage >= 0, f"--gpus-per-stage is {self.gpus_per_stage:g}; give 0 or more")
        require(
            self.workers > 0 or not (self.address or self.gpus_per_stage), "--workers 0 runs without Ray; give more"
        )
        require(
            not self.workers or find_spec("ray") is not None,
            "several workers need Ray: pip install -e '.[preprocess]', or give --workers 0",
        )

    def run(self, stages: Sequence[Stage], inputs: Sequence[Input]) -> Iterator[tuple[Input, list[Work]]]:
        """Yields each input with its finished or rejected segments, in order; one piece for a rejected input."""
        todo = [Work(given=given, number=number) for number, given in enumerate(inputs)]
        if not todo:
            return iter(())
        if not self.workers:
            return _by_input(todo, chained(stages, todo))
        return self._run_ray(stages, todo)

    def _run_ray(self, stages: Sequence[Stage], todo: list[Work]) -> Iterator[tuple[Input, list[Work]]]:
        groups = self._groups(stages)
        with warnings.catch_warnings(), self._ray(passes_panoramas=len(groups) > 1):
            import ray.data

            # One row per block, so that a worker that dies costs no other input.
            rows = ray.data.from_items([{"work": pickle.dumps(work)} for work in todo], override_num_blocks=len(todo))
            for on_gpu, group in groups:
                most = self._processes(on_gpu, groups)
                rows = rows.map_batches(
                    # A class of its own, sent with its stages: a restarted worker may not find Ray's stored arguments.
                    type("Workers", (Workers,), {"stages": group}),
                    batch_size=max(stage.at_once for stage in group) if on_gpu else 1,
                    batch_format="numpy",
                    # One task at a time: tasks that wait in a worker are lost if it dies.
                    compute=ray.data.ActorPoolStrategy(
                        min_size=1, initial_size=most, max_size=most, max_tasks_in_flight_per_actor=1
                    ),
                    num_cpus=1,
                    num_gpus=self.gpus_per_stage if on_gpu else 0,
                    max_task_retries=RETRIES,
                )
            yield from _by_input(todo, (pickle.loads(row["work"]) for row in rows.iter_rows()))

    def _groups(self, stages: Sequence[Stage]) -> list[tuple[bool, tuple[Stage, ...]]]:
        """Groups of consecutive stages that share a process, each with whether it uses a GPU."""
        grouped = groupby(stages, key=lambda stage: stage.on_gpu and self.gpus_per_stage > 0)
        return [(on_gpu, tuple(group)) for on_gpu, group in grouped]

    def _processes(self, on_gpu: bool, groups: Sequence[tuple[bool, tuple[Stage, ...]]]) -> int:
        """Largest number of processes of a group; groups with GPUs share them evenly."""
        if not on_gpu:
            return self.workers
        import ray

        gpus = ray.cluster_resources().get("GPU", 0.0)
        each = int(gpus / self.gpus_per_stage / sum(gpu for gpu, _ in groups))
        require(
            each > 0,
            f"--gpus-per-stage {self.gpus_per_stage:g} asks for more than the {gpus:g} GPUs that Ray finds for "
            f"{sum(gpu for gpu, _ in groups)} groups of stages; give a smaller share",
        )
        return each

    @contextmanager
    def _ray(self, passes_panoramas: bool) -> Generator[None]:
        """Connects to Ray, or starts it for the duration of the block, without its messages."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        warnings.simplefilter("ignore", DeprecationWarning)
        import ray.data

        # Ray warns about max_task_retries, for which it has no other way yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        # JAX warns of forks for the sake of its threads; Ray's forked processes execute other programs at once.
        warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")

        # One CPU for every process that may run at once.
        cpus = max(2 * self.workers + 4, os.cpu_count() or 1) if passes_panoramas else self.workers
        own = {} if self.address else {"include_dashboard": False, "num_cpus": cpus}
        if not self.address and not passes_panoramas:
            own["object_store_memory"] = SMALL_STORE_BYTES
        with _muted():
            ray.init(address=self.address or "local", logging_level=logging.ERROR, log_to_driver=False, **own)
        try:
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            context.execution_options.preserve_order = True
            # Only a worker's death counts as an errored block: `Workers` returns every other error as a result.
            context.max_errored_blocks = -1
            yield
        finally:
            ray.shutdown()


@contextmanager
def _muted() -> Generator[None]:
    """Discards what is written to file descriptor 2: Ray's core greets there, and raises its errors."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class Workers:
    """Worker of a group of stages; Ray Data makes one per process."""

    stages: tuple[Stage, ...] = ()

    def __call__(self, batch: Rows) -> Iterator[Rows]:
        """Yields each finished piece of work as a batch of its own."""
        given = [pickle.loads(work) for work in batch["work"]]
        try:
            for work in chained(self.stages, given):
                yield {"work": [pickle.dumps(work)]}
        except Exception as error:  # raised here it would count as a worker's death; `_by_input` ends the run instead
            fatal = given[0].emptied(Rejection("", f"{type(error).__name__}: {error}"))
            yield {"work": [pickle.dumps(replace(fatal, fatal=True))]}


def _by_input(todo: Iterable[Work], done: Iterable[Work]) -> Iterator[tuple[Input, list[Work]]]:
    """Groups finished pieces of work by input, both in order; an input that lacks pieces lost them with its worker."""
    coming = iter(done)
    ahead = next(coming, None)
    for work in todo:
        parts: list[Work] = []
        while ahead is not None and ahead.number == work.number:
            if ahead.fatal and ahead.rejection is not None:
                raise DatasetError(f"the run ended at {work.given.path}: {ahead.rejection.reason}")
            parts.append(ahead)
            ahead = next(coming, None)
        whole = parts and (not parts[0].segments or len(parts) == parts[0].segments)
        yield work.given, parts if whole else [work.emptied(Rejection("worker", f"{work.given.path}: {DIED}"))]
