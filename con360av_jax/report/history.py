"""What a run's logs say: losses per modality and range of timesteps, speed, and whatever went wrong."""

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
from con360av_jax.train.corrupt_records import read_corrupt_records
from con360av_jax.train.metrics import read_lines

SHOWN = 20
"""Steps that were no number, and damaged records, that are named; the others are counted."""


class Quantity(NamedTuple):
    """One measure of speed: its name, its unit, both in short, how a line tells it, and what no value can exceed."""

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
    """The lines of metrics.jsonl and nonfinite.jsonl, and the checkpoints and records that were found damaged."""

    lines: list[dict]
    nonfinite: list[dict]
    damaged_checkpoints: list[str]
    damaged_records: list[str]

    @property
    def steps(self) -> list[int]:
        """The last step of every line."""
        return [line["step"] for line in self.lines]

    def series(self, value: Callable[[dict], float | None]) -> Float[np.ndarray, "line"]:
        """`value` of every line; NaN where the line does not know it."""
        return np.array([np.nan if (found := value(line)) is None else found for line in self.lines], np.float64)

    def at_the_end(self, value: Callable[[dict], float | None]) -> float | None:
        """Mean of `value` over the last tenth of the lines; None if none of them knows it."""
        values = self.series(value)[-max(len(self.lines) // 10, 1) :]
        known = values[np.isfinite(values)]
        return float(known.mean()) if known.size else None


def read_history(run: Path) -> History:
    """Reads a run's logs, also of one that is at work or was killed.

    Raises:
        CheckpointError: no step was logged yet, or metrics.jsonl is damaged.
    """
    file = run / "metrics.jsonl"
    lines = read_lines(file)
    if not lines:
        raise CheckpointError(f"{file} holds no step yet: train for at least log_every steps first")
    steps = [line["step"] for line in lines]
    if any(after <= before for before, after in pairwise(steps)):
        raise CheckpointError(f"{file} is damaged: its steps do not rise from line to line; resume the run to mend it")
    damaged = sorted(path.name.removesuffix(".damaged") for path in (run / "checkpoints").glob("*.damaged"))
    return History(
        lines=lines,
        nonfinite=read_lines(run / "nonfinite.jsonl"),
        damaged_checkpoints=damaged,
        damaged_records=read_corrupt_records(run),
    )


def loss_curves(history: History, config: Config) -> list[Markup]:
    """Loss per modality, and for each modality per range of timesteps."""
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


def loss_table(history: History, config: Config) -> dict[str, list[float | None]]:
    """By modality: the loss at the end over all timesteps, then per range of them."""
    ranges = range(len(timestep_ranges(config)))
    return {
        name: [
            history.at_the_end(lambda line, name=name: line[f"loss_{name}"]),
            *(history.at_the_end(_in_range(name, number)) for number in ranges),
        ]
        for name in MODALITIES
    }


def timestep_ranges(config: Config) -> list[str]:
    """The four equal ranges of timesteps whose losses are kept apart, "0–249" first."""
    edges = [config.schedule.audio.train_steps * number // 4 for number in range(5)]
    return [f"{low}–{high - 1}" for low, high in pairwise(edges)]


def speed_curves(history: History) -> list[Markup]:
    """One figure per measure of speed that this machine knows."""
    drawn = []
    for quantity in SPEED:
        values = history.series(quantity.value)
        if np.isfinite(values).any():
            curve = Curve(name=quantity.name, colour="video", values=values)
            drawn.append(curves(quantity.name, quantity.unit, history.steps, [curve], quantity.ceiling))
    return drawn


def speed_table(history: History) -> list[dict]:
    """Median, tenth and ninetieth percentile over the lines, and the end, of each measure; None where unknown."""
    rows = []
    for quantity in SPEED:
        values = history.series(quantity.value)
        known = values[np.isfinite(values)]
        low, median, high = np.percentile(known, (10, 50, 90)).tolist() if known.size else (None, None, None)
        end = history.at_the_end(quantity.value)
        rows.append({**quantity._asdict(), "numbers": (median, low, high, end)})
    return rows


def seconds_in_steps(history: History) -> float:
    """Time that the steps took together, waiting for data included, saving and starting not."""
    made = np.diff([0, *history.steps])
    return float((made * history.series(lambda line: line["step_seconds"])).sum())


def incidents(history: History) -> list[str]:
    """A sentence about each step that was no number and each damaged record, the first SHOWN of them, and each damaged
    checkpoint."""
    steps = [
        f"Step {line['step']}: loss {line['loss']}, gradient norm {line['gradient_norm']}; the step was "
        f"{'left out' if line['skipped'] else 'where the run stopped'}. Sample ids {json.dumps(line['sample_ids'])}."
        for line in history.nonfinite
    ]
    records = [f"Damaged, and left out: {reason}." for reason in history.damaged_records]
    checkpoints = [f"Checkpoint {step} was found damaged and set aside." for step in history.damaged_checkpoints]
    return [
        *_first(steps, "steps like these, see nonfinite.jsonl"),
        *_first(records, "damaged records, see damaged-0.jsonl and others"),
        *checkpoints,
    ]


def _first(sentences: list[str], more: str) -> list[str]:
    rest = len(sentences) - SHOWN
    return sentences[:SHOWN] + ([f"And {rest} more {more}."] if rest > 0 else [])


def _in_range(modality: str, number: int) -> Callable[[dict], float | None]:
    return lambda line: line["loss_by_timestep"][modality][number]
