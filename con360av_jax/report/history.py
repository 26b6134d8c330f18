"""Logs of a run for the report: losses by modality and timestep range, speed, and incidents."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.errors import CheckpointError
from con360av_jax.pages.plots import Curve, curves
from con360av_jax.train.best import VALIDATION
from con360av_jax.train.corrupt_records import read_corrupt_records
from con360av_jax.train.metrics import read_lines

SHOWN = 20
"""Most non-finite steps, and most corrupt records, listed on a page; the rest are counted."""


PACKAGES = (
    "con360av-jax",
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "av",
    "opencv-python-headless",
)
"""Packages whose versions stand on a page."""
SPEED_COLUMNS = ("clips_per_second", "step_seconds", "data_stall", "mfu", "memory_peak_gib")
"""Columns of metrics.jsonl that tell the speed (train/metrics.py)."""


class Quantity(NamedTuple):
    """A measure of speed: name, unit, short label, its value in a log line, and the upper limit of its axis."""

    name: str
    unit: str
    short: str
    value: Callable[[dict], float | None]
    ceiling: float | None = None


def _percent(name: str) -> Callable[[dict], float | None]:
    return lambda line: None if line[name] is None else 100 * line[name]


SPEED = (
    Quantity("Throughput", "clips/s", "clips/s", lambda line: line["clips_per_second"]),
    Quantity("Time of a step", "seconds", "s per step", lambda line: line["step_seconds"]),
    Quantity("Waiting for data", "% of the time", "% waiting for data", _percent("data_stall"), ceiling=100),
    Quantity("Model FLOPs utilisation", "% of the peak", "% MFU", _percent("mfu"), ceiling=100),
    Quantity("Memory peak of a device", "GiB", "GiB memory peak", lambda line: line["memory_peak_gib"]),
)


@dataclass(frozen=True, kw_only=True)
class History:
    """Lines of a run's logs, and its corrupt checkpoints and records."""

    lines: list[dict]
    """Lines of metrics.jsonl."""
    validation: list[dict]
    """Lines of validation.jsonl."""
    nonfinite: list[dict]
    corrupt_checkpoints: list[str]
    corrupt_records: list[str]

    @property
    def steps(self) -> list[int]:
        """Step of each line."""
        return [line["step"] for line in self.lines]

    def series(self, value: Callable[[dict], float | None]) -> Float[np.ndarray, "line"]:
        """`value` of each line; NaN where it is unknown."""
        return np.array([np.nan if (found := value(line)) is None else found for line in self.lines], np.float64)

    def at_the_end(self, value: Callable[[dict], float | None]) -> float | None:
        """Mean of `value` over the last tenth of the lines; None if it is unknown in all of them."""
        values = self.series(value)[-max(len(self.lines) // 10, 1) :]
        known = values[np.isfinite(values)]
        return float(known.mean()) if known.size else None


def read_history(run: Path) -> History:
    """Reads the logs of a run, which may still be running or have been killed.

    Raises:
        CheckpointError: no step was logged yet, or metrics.jsonl is corrupt.
    """
    file = run / "metrics.jsonl"
    lines = read_lines(file)
    if not lines:
        raise CheckpointError(f"{file} holds no step yet: train for at least log_every steps first")
    steps = [line["step"] for line in lines]
    if any(after <= before for before, after in pairwise(steps)):
        raise CheckpointError(f"{file} is corrupt: its steps do not increase; resume the run to repair it")
    corrupt = sorted(path.name.removesuffix(".damaged") for path in (run / "checkpoints").glob("*.damaged"))
    return History(
        lines=lines,
        validation=read_lines(run / VALIDATION),
        nonfinite=read_lines(run / "nonfinite.jsonl"),
        corrupt_checkpoints=corrupt,
        corrupt_records=read_corrupt_records(run),
    )


def loss_curves(history: History, config: Config) -> list[Markup]:
    """Plots of the loss by modality, of each modality by timestep range, and of the gradient norm."""
    unit = "mean squared error"
    modalities = [
        Curve(name=name, colour=name, values=history.series(lambda line, name=name: line[f"loss_{name}"]))
        for name in MODALITIES
    ]
    both = Curve(name="sum", colour="ink", values=history.series(lambda line: line["loss"]))
    drawn = [curves("Loss", unit, history.steps, [both, *modalities])]
    for name in MODALITIES:
        ranges = [
            Curve(name=shown, colour=f"range-{number + 1}", values=history.series(_in_range(name, number)))
            for number, shown in enumerate(timestep_ranges(config))
        ]
        drawn.append(curves(f"{name.title()} by timestep", unit, history.steps, ranges))
    norm = Curve(name="norm", colour="ink", values=history.series(lambda line: line["gradient_norm"]))
    return [*drawn, curves("Gradient norm", "before clipping", history.steps, [norm])]


def held_out_curves(history: History, config: Config) -> list[Markup]:
    """Plots of the held-out loss, for each modality beside that of training and by timestep range; [] without any."""
    if not history.validation:
        return []
    steps = sorted({*history.steps, *(line["step"] for line in history.validation)})

    def series(lines: list[dict], value: Callable[[dict], float | None]) -> Float[np.ndarray, "step"]:
        known = {line["step"]: value(line) for line in lines}
        return np.array([np.nan if (found := known.get(step)) is None else found for step in steps], np.float64)

    by_weights = {name: [line for line in history.validation if line["weights"] == name] for name in ("ema", "raw")}
    drawn = []
    for name in MODALITIES:

        def loss(line: dict, name: str = name) -> float:
            return line[f"loss_{name}"]

        compared = [
            Curve(name="training", colour="muted", values=series(history.lines, loss)),
            Curve(name="held out, trained weights", colour="ink", values=series(by_weights["raw"], loss)),
            Curve(name="held out, moving average", colour=name, values=series(by_weights["ema"], loss)),
        ]
        ranges = [
            Curve(name=shown, colour=f"range-{number + 1}", values=series(by_weights["ema"], _in_range(name, number)))
            for number, shown in enumerate(timestep_ranges(config))
        ]
        drawn.append(curves(f"{name.title()}", "mean squared error", steps, compared))
        drawn.append(curves(f"Held-out {name} by timestep", "mean squared error", steps, ranges))
    return drawn


def best_line(history: History) -> dict | None:
    """The line of validation.jsonl with the lowest loss of the moving average, or None without validations."""
    averages = [line for line in history.validation if line["weights"] == "ema" and np.isfinite(line["loss"])]
    return min(averages, key=lambda line: line["loss"], default=None)


def loss_table(history: History, config: Config) -> dict[str, list[float | None]]:
    """Final loss of each modality: over all timesteps, then for each timestep range."""
    ranges = range(len(timestep_ranges(config)))
    return {
        name: [
            history.at_the_end(lambda line, name=name: line[f"loss_{name}"]),
            *(history.at_the_end(_in_range(name, number)) for number in ranges),
        ]
        for name in MODALITIES
    }


def timestep_ranges(config: Config) -> list[str]:
    """Labels of the four equal timestep ranges, "0–249" first."""
    edges = [config.schedule.audio.train_steps * number // 4 for number in range(5)]
    return [f"{low}–{high - 1}" for low, high in pairwise(edges)]


def speed_curves(history: History) -> list[Markup]:
    """One plot for each known measure of speed."""
    drawn = []
    for quantity in SPEED:
        values = history.series(quantity.value)
        if np.isfinite(values).any():
            curve = Curve(name=quantity.name, colour="video", values=values)
            drawn.append(curves(quantity.name, quantity.unit, history.steps, [curve], quantity.ceiling))
    return drawn


def speed_table(history: History) -> list[dict]:
    """Median, 10th and 90th percentile, and final value of each measure of speed; None where unknown."""
    rows = []
    for quantity in SPEED:
        values = history.series(quantity.value)
        known = values[np.isfinite(values)]
        low, median, high = np.percentile(known, (10, 50, 90)).tolist() if known.size else (None, None, None)
        end = history.at_the_end(quantity.value)
        rows.append({**quantity._asdict(), "numbers": (median, low, high, end)})
    return rows


def seconds_in_steps(history: History) -> float:
    """Total time of all steps, s, including waiting for data but not saving and starting."""
    made = np.diff([0, *history.steps])
    return float((made * history.series(lambda line: line["step_seconds"])).sum())


def incidents(history: History) -> list[str]:
    """Sentences about non-finite steps and corrupt records, the first SHOWN of each, and about corrupt checkpoints."""
    steps = [
        f"Step {line['step']}: loss {line['loss']}, gradient norm {line['gradient_norm']}; the step was "
        f"{'skipped' if line['skipped'] else 'where the run stopped'}. Sample ids {json.dumps(line['sample_ids'])}."
        for line in history.nonfinite
    ]
    records = [f"Corrupt and skipped: {reason}." for reason in history.corrupt_records]
    checkpoints = [f"Checkpoint {step} was found corrupt and renamed." for step in history.corrupt_checkpoints]
    return [
        *_first(steps, "such steps, see nonfinite.jsonl"),
        *_first(records, "corrupt records, see damaged-*.jsonl"),
        *checkpoints,
    ]


def _first(sentences: list[str], more: str) -> list[str]:
    rest = len(sentences) - SHOWN
    return sentences[:SHOWN] + ([f"And {rest} more {more}."] if rest > 0 else [])


def _in_range(modality: str, number: int) -> Callable[[dict], float | None]:
    return lambda line: line["loss_by_timestep"][modality][number]
