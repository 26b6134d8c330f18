"""Measures of pretraining on held-out data, with the moving average of the parameters.

RUN/validation.jsonl   one line per validation: step, weights ("ema"), loss and the measures of the objective
RUN/examples.npz       the first inputs and outputs of each held-out batch at the newest validation, or those that a
                       generative model samples from the captions of the first batch, at most 8, as "input_KIND" and
                       "output_KIND" with KIND frames, mel or audio; not in a run of several processes
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
from con360av_jax.train.optimizer import merge
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
        frozen: Params,
        place: Callable[[Any], Any],
        run: Path,
    ):
        """`rows` are the first `count` held-out examples; fewer than a batch are repeated.

        `frozen` holds the parameters that are not trained, `place` puts a batch on the mesh.
        """
        self._objective, self._every, self._place = objective, config.train.checkpoint_every, place
        self._rows, self._size, self._frozen, self._run = rows, config.train.batch_size, frozen, run
        self._count = min(config.pretrain.validation_batches, max(1, count // self._size))
        self._measure = jax.jit(objective.measure)
        self._sample = jax.jit(objective.sample) if objective.sample else None
        # As few rows as are shown, and at least one for each part of a batch on the mesh.
        parts = config.mesh.data * config.mesh.fsdp
        self._sampled = -(-SHOWN // parts) * parts // jax.process_count()
        self._batches: list[Any] = []

    def due(self, step: int) -> bool:
        """Whether to measure after this step."""
        return step % self._every == 0

    def __call__(self, step: int, state: TrainState, trackers: Sequence[Tracker]) -> float:
        """Writes the line of a step and the examples; returns the held-out loss."""
        params = merge(state.ema, self._frozen)
        totals: dict[str, float] = {}
        examples: list[dict[str, np.ndarray]] = []
        each = -(-SHOWN // self._count)
        for batch in self._held_out():
            sums, shown = self._measure(params, self._place(batch))
            for name, value in jax.device_get(sums).items():
                totals[name] = totals.get(name, 0.0) + float(value)
            if self._sample is None and len(examples) * each < SHOWN and jax.process_count() == 1:
                examples.append({name: np.asarray(array)[:each] for name, array in jax.device_get(shown).items()})
        if self._sample is not None:
            first = jax.tree.map(lambda rows: rows[: self._sampled], self._held_out()[0])
            shown = jax.device_get(self._sample(params, self._place(first)))
            examples = [shown] if jax.process_count() == 1 else []
        self._keep(examples)
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

    def _keep(self, examples: list[dict[str, np.ndarray]]) -> None:
        if not examples:
            return
        shown = {name: np.concatenate([rows[name] for rows in examples])[:SHOWN] for name in examples[0]}
        with replacing(self._run / EXAMPLES, CheckpointError) as aside, aside.open("wb") as file:
            np.savez(file, **shown)  # pyright: ignore[reportArgumentType]
