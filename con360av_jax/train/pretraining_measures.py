"""Measures of pretraining on held-out data, with the moving average of the parameters.

RUN/validation.jsonl   one line per validation: step, weights ("ema"), loss and the measures of the objective
RUN/examples.npz       inputs and outputs of the first held-out examples at the newest validation, as "input_KIND" and
                       "output_KIND" with KIND frames, mel or audio
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from con360av_jax.config.settings import Config
from con360av_jax.data.loader import Rows
from con360av_jax.data.transforms import collate
from con360av_jax.errors import CheckpointError
from con360av_jax.models.functional import Params
from con360av_jax.runtime.files import replacing
from con360av_jax.train.objectives.objective import Objective
from con360av_jax.train.run_folder import append_line
from con360av_jax.train.state import TrainState
from con360av_jax.train.trackers import Tracker

EXAMPLES = "examples.npz"
SHOWN = 8
"""Examples that are kept to look at."""


class HeldOutMeasures:
    """Measures of an objective over fixed held-out examples, whose batches are made once and kept."""

    def __init__(
        self,
        objective: Objective,
        config: Config,
        rows: Rows,
        count: int,
        reads: Params,
        place: Callable[[Any], Any],
        run: Path,
    ):
        """`rows` are the first `count` held-out examples; fewer than a batch are repeated.

        `reads` holds the parameters that are not trained, `place` puts a batch on the mesh.
        """
        self._objective, self._every, self._place = objective, config.train.checkpoint_every, place
        self._rows, self._size, self._reads, self._run = rows, config.train.batch_size, reads, run
        self._count = min(config.pretrain.validation_batches, max(1, count // self._size))
        self._measure = jax.jit(objective.measure)
        self._batches: list[Any] = []

    def due(self, step: int) -> bool:
        """Whether to measure after this step."""
        return step % self._every == 0

    def __call__(self, step: int, state: TrainState, trackers: Sequence[Tracker]) -> float:
        """Writes the line of a step and the examples; returns the held-out loss."""
        params = {**state.ema, **self._reads}
        totals: dict[str, float] = {}
        for number, batch in enumerate(self._held_out()):
            sums, shown = self._measure(params, self._place(batch))
            for name, value in jax.device_get(sums).items():
                totals[name] = totals.get(name, 0.0) + float(value)
            if number == 0 and jax.process_index() == 0:
                self._keep({name: np.asarray(array)[:SHOWN] for name, array in jax.device_get(shown).items()})
        measured = self._objective.summarise(totals)
        if jax.process_index() == 0:
            append_line(self._run / "validation.jsonl", {"step": step, "weights": "ema", **measured})
            for tracker in trackers:
                tracker.log(step, {"validation": measured})
        return measured["loss"]

    def _held_out(self) -> list[Any]:
        if not self._batches:
            share = self._size // jax.process_count()
            for number in range(self._count):
                first = number * self._size + jax.process_index() * share
                self._batches.append(collate([self._rows(row) for row in range(first, first + share)]))
        return self._batches

    def _keep(self, shown: dict[str, np.ndarray]) -> None:
        with replacing(self._run / EXAMPLES, CheckpointError) as aside, aside.open("wb") as file:
            np.savez(file, **shown)  # pyright: ignore[reportArgumentType]
