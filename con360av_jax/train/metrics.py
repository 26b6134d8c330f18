"""Metrics of a run as JSON lines: kept on the device, fetched and averaged once per log interval."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array

from con360av_jax.config_io import write_text
from con360av_jax.errors import ConfigError
from con360av_jax.shapes import MODALITIES


class MetricsLog:
    """Appends one line per log interval to `path`: means over the interval's steps, and its speed.

    A line holds step (the last of the interval), loss, loss_audio, loss_video, gradient_norm, learning_rate (of the
    last step), loss_by_timestep (per modality, four equal ranges of timesteps, null where none was drawn),
    clips_per_second and step_seconds.
    """

    def __init__(self, path: Path, batch_size: int):
        self.path, self.batch_size = path, batch_size
        self._waiting: list[Mapping[str, Array]] = []
        self._began = time.perf_counter()

    def add(self, metrics: Mapping[str, Array]) -> None:
        """Keeps one step's metrics, on the device."""
        self._waiting.append(metrics)

    def flush(self, step: int) -> dict[str, object]:
        """Writes and returns the line that ends at `step`, over all steps added since the last one.

        Raises:
            ConfigError: the loss is no number.
        """
        steps = jax.device_get(self._waiting)
        seconds = (time.perf_counter() - self._began) / len(steps)
        line = {"step": step, **_averages(steps)}
        line |= {"clips_per_second": round(self.batch_size / seconds, 4), "step_seconds": round(seconds, 4)}
        if not math.isfinite(line["loss"]):
            raise ConfigError(
                f"the loss is {line['loss']} at step {step}: resume from the last checkpoint with a lower "
                "train.learning_rate or train.clip_norm"
            )
        if jax.process_index() == 0:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self._waiting.clear()
        self._began = time.perf_counter()
        return line


def _averages(steps: list[Mapping[str, np.ndarray]]) -> dict[str, object]:
    mean = {name: float(np.mean([metrics[name] for metrics in steps], dtype=np.float64)) for name in _SCALARS}
    count = np.stack([metrics["bucket_count"] for metrics in steps]).sum(axis=0)
    by_timestep = {}
    for name in MODALITIES:
        total = np.stack([metrics[f"bucket_sum/{name}"] for metrics in steps]).sum(axis=0, dtype=np.float64)
        by_timestep[name] = [float(t / c) if c else None for t, c in zip(total, count, strict=True)]
    return {
        "loss": mean["loss"],
        **{f"loss_{name}": mean[f"loss/{name}"] for name in MODALITIES},
        "gradient_norm": mean["gradient_norm"],
        "learning_rate": float(steps[-1]["learning_rate"]),
        "loss_by_timestep": by_timestep,
    }


_SCALARS = ("loss", *(f"loss/{name}" for name in MODALITIES), "gradient_norm")


def drop_after(path: Path, step: int) -> None:
    """Removes the lines after `step`, and one that was cut off, so that a resumed run repeats none."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            # The run was killed while writing this line; its steps come after the last checkpoint.
            continue
    write_text(path, "".join(f"{line}\n" for line in kept))
