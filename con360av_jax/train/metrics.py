"""Metrics of a run as JSON lines: kept on the device, then fetched and averaged once per log interval."""

import json
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from con360av_jax.config.shapes import MODALITIES
from con360av_jax.runtime.files import write_text
from con360av_jax.runtime.text_files import split_lines
from con360av_jax.train.nonfinite import is_finite
from con360av_jax.train.run_folder import append_line
from con360av_jax.train.throughput import memory_peak_gib, utilisation
from con360av_jax.train.trackers import Tracker

ORDERED = ("loss", "gradient_norm", "learning_rate")


class MetricsLog:
    """Writer of metrics.jsonl: one line per log interval with means over its steps and its speed.

    A line holds step (the last of the interval), loss and its terms (loss_audio and loss_video of the joint model,
    those of the objective in pretraining), gradient_norm, learning_rate (of the last step), for the joint model
    loss_by_timestep (per modality, four equal ranges of timesteps, null where none was drawn), clips_per_second,
    step_seconds, data_stall (share of the time spent waiting for data), mfu (share of the devices' peak) and
    memory_peak_gib; the last two are null where a device does not report them.
    """

    def __init__(self, path: Path, batch_size: int, flops: float = 0.0, trackers: Sequence[Tracker] = ()):
        """`flops` is the number of operations of a step over all devices, 0 if unknown."""
        self.path, self.batch_size, self.flops, self.trackers = path, batch_size, flops, trackers
        self._waiting: list[Mapping[str, Array]] = []
        self._began, self._stalled = time.perf_counter(), 0.0

    @contextmanager
    def stall(self) -> Generator[None]:
        """Counts the time spent in the block as waiting for data."""
        began = time.perf_counter()
        yield
        self._stalled += time.perf_counter() - began

    @contextmanager
    def pause(self) -> Generator[None]:
        """Leaves the time spent in the block out of the speed; comes after `flush`, which waits for the device."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def close(self) -> None:
        """Closes the trackers."""
        for tracker in self.trackers:
            tracker.close()

    def add(self, metrics: Mapping[str, Array]) -> None:
        """Adds the metrics of one step, which stay on the device."""
        self._waiting.append(metrics)

    def flush(self, step: int) -> dict[str, object]:
        """Writes and returns the line of all steps added since the last call, of which `step` is the last.

        Skipped steps (train/nonfinite.py) count for the speed only; if all were skipped, no line is written and
        the result is empty.
        """
        steps = jax.device_get(self._waiting)
        elapsed = time.perf_counter() - self._began
        made = [metrics for metrics in steps if is_finite(metrics)]
        line = {"step": step, **_averages(made)} if made else {}
        if line:
            line |= self._speed(elapsed, len(steps))
        if line and jax.process_index() == 0:
            append_line(self.path, line)
            for tracker in self.trackers:
                tracker.log(step, line)
        self._waiting.clear()
        self._began, self._stalled = time.perf_counter(), 0.0
        return line

    def _speed(self, elapsed: float, steps: int) -> dict[str, object]:
        seconds = elapsed / steps
        mfu, memory = utilisation(self.flops, seconds), memory_peak_gib()
        return {
            "clips_per_second": round(self.batch_size / seconds, 4),
            "step_seconds": round(seconds, 4),
            "data_stall": round(self._stalled / elapsed, 4),
            "mfu": None if mfu is None else round(mfu, 4),
            "memory_peak_gib": None if memory is None else round(memory, 3),
        }


def _averages(steps: list[Mapping[str, np.ndarray]]) -> dict[str, object]:
    values = {name: np.stack([metrics[name] for metrics in steps]) for name in steps[0]}
    terms = sorted(name for name in values if not name.startswith("bucket_") and name not in ORDERED)
    line: dict[str, object] = {
        name.replace("/", "_"): float(values[name].mean(dtype=np.float64)) for name in (ORDERED[0], *terms, ORDERED[1])
    }
    line["learning_rate"] = float(values["learning_rate"][-1])
    if "bucket_count" in values:
        line["loss_by_timestep"] = _by_timestep(values)
    return line


def _by_timestep(values: Mapping[str, np.ndarray]) -> dict[str, list[float | None]]:
    count = values["bucket_count"].sum(axis=0)
    totals = {name: values[f"bucket_sum/{name}"].sum(axis=0, dtype=np.float64) for name in MODALITIES}
    return {
        name: [float(t / c) if c else None for t, c in zip(total, count, strict=True)] for name, total in totals.items()
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a JSON-lines file of a run, without truncated lines; returns [] if the file does not exist."""
    if not path.is_file():
        return []
    lines = []
    for line in split_lines(path.read_text(encoding="utf-8")):
        try:
            lines.append(json.loads(line))
        except ValueError:
            # Truncated: the run was killed, or is running; the steps of this line come after the last checkpoint.
            continue
    return lines


def drop_after(path: Path, step: int) -> None:
    """Removes the lines after `step` and truncated ones from a JSON-lines file: a resumed run writes them again."""
    if path.is_file():
        kept = [line for line in read_lines(path) if line["step"] <= step]
        write_text(path, "".join(f"{json.dumps(line)}\n" for line in kept))
