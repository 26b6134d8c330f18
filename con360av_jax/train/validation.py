"""The held-out loss with fixed draws: the same rows, timesteps, noise and clean estimates at every validation.

Each of N records is seen at one timestep of each of K equal ranges, with all of its conditions:

    (1) t_ik = floor((k N + i + 1/2) T / (K N))         record i = 0 .. N - 1, range k = 0 .. K - 1, T timesteps

so that few rows cover all timesteps evenly. Everything else that training draws comes from a key of the row's number
alone: batch size, mesh and seed of the run change rounding only, and runs compare.

RUN/validation.jsonl   two lines per validation: step, weights ("ema" or "raw"), loss (the weighted sum that training
                       minimises), loss_audio, loss_video and loss_by_timestep (per modality, four ranges; unweighted)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from einops import rearrange
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from con360av_jax.config.settings import Config, NoiseSchedule, PerModality, TrainConfig
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.data.transforms import collate
from con360av_jax.denoiser import Denoiser
from con360av_jax.diffusion.loss import (
    TIMESTEP_BUCKETS,
    Batch,
    Draws,
    DropoutRates,
    denoising_errors,
    draw,
    dropout_rates,
    weighed,
)
from con360av_jax.diffusion.process import named_key
from con360av_jax.models.functional import Params
from con360av_jax.sharding import from_local_rows
from con360av_jax.train.best import VALIDATION
from con360av_jax.train.encode import Encode
from con360av_jax.train.optimizer import merge
from con360av_jax.train.run_folder import append_line
from con360av_jax.train.state import TrainState
from con360av_jax.train.trackers import Tracker

RowErrors: TypeAlias = dict[str, dict[str, Float[Array, "row"]]]
"""Per modality the "error" of each row and its summand of the weighted loss, "weighed"."""
ValidationLoss: TypeAlias = Callable[[Params, Params, Batch, Int[Array, "row"], Int[Array, "row"]], RowErrors]
"""Function as made by `make_validation_loss`: (trainable, frozen, batch, timestep, row number) -> errors."""


def validation_timesteps(records: int, train_steps: int) -> Int[np.ndarray, "record range"]:
    """Equation (1)."""
    i, k = np.arange(records)[:, None], np.arange(TIMESTEP_BUCKETS)[None]
    return ((2 * (k * records + i) + 1) * train_steps // (2 * TIMESTEP_BUCKETS * records)).astype(np.int32)


def make_validation_loss(
    denoiser: Denoiser, schedules: PerModality[NoiseSchedule], config: TrainConfig
) -> ValidationLoss:
    """Returns the errors of held-out rows as a pure function for `jax.jit`; `frozen` is in the compute dtype.

    Captions are kept. So are maps, except one that training drops always, as the baseline's does. Timesteps that a row
    draws itself are uniform.
    """
    alike = replace(config, timesteps="uniform")
    always = DropoutRates(*(np.float32(rate == 1) for rate in dropout_rates(config)))
    dropout = always._replace(text=np.float32(0))

    def drawn_alone(row: Batch, number: Int[Array, ""]) -> Draws:
        key = jax.random.fold_in(named_key(jax.random.key(0), "validation"), number)
        # No caption is dropped: that of the row stands in for the empty one.
        drawn = draw(jax.tree.map(lambda leaf: leaf[None], row), row["text"], dropout, key, schedules, alike)
        return jax.tree.map(lambda leaf: leaf[0], drawn)

    def errors(
        trainable: Params, frozen: Params, batch: Batch, timestep: Int[Array, "row"], number: Int[Array, "row"]
    ) -> RowErrors:
        drawn = jax.vmap(drawn_alone)(batch, number)._replace(timestep=timestep)
        found = denoising_errors(denoiser, merge(trainable, frozen), drawn, schedules, config)
        return {
            name: {"error": rows, "weighed": weighed(rows, name, timestep, schedules, config)}
            for name, rows in found.items()
        }

    return errors


class Validation:
    """Held-out loss of the moving average and of the trained weights, on the mesh and in the batches of training."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        examples: Sequence[Any],
        program: ValidationLoss,
        encode: Encode | None,
        frozen: Params,
        run: Path,
    ):
        """`examples` are held-out records as `transforms.to_parts` makes them, `program` is compiled for their batches.

        `encode` turns batches of records without latents into training batches.
        """
        self._mesh, self._examples, self._program, self._encode = mesh, examples, program, encode
        self._frozen, self._path = frozen, run / VALIDATION
        self._rows = validation_rows(config.train)
        self._timesteps = validation_timesteps(len(examples), config.schedule.video.train_steps)

    def __call__(self, step: int, state: TrainState, trackers: Sequence[Tracker]) -> float:
        """Writes the two lines of a step; returns the loss of the moving average."""
        weights = {"ema": state.ema, "raw": state.params}
        found: dict[str, list[RowErrors]] = {name: [] for name in weights}
        for batch, timestep, number in self._batches():
            for name, params in weights.items():
                # Fetched one by one: programs that run at the same time could mix up what processes send each other.
                found[name].append(jax.device_get(self._program(params, self._frozen, batch, timestep, number)))
        measured = {name: self._line(parts) for name, parts in found.items()}
        if jax.process_index() == 0:
            for name, line in measured.items():
                append_line(self._path, {"step": step, "weights": name, **line})
            for tracker in trackers:
                tracker.log(step, {"validation": measured})
        return measured["ema"]["loss"]

    def _batches(self) -> Iterator[tuple[Any, Array, Array]]:
        """Batches of all rows, of which this process holds its share; the last row fills the last batch."""
        flat = rearrange(self._timesteps, "record range -> (record range)")
        share = self._rows // jax.process_count()
        for start in range(0, flat.size, self._rows):
            first = start + jax.process_index() * share
            number = np.minimum(np.arange(first, first + share, dtype=np.int32), flat.size - 1)
            batch = collate([self._examples[row // TIMESTEP_BUCKETS] for row in number.tolist()])
            batch["sample_id"] = batch["sample_id"].astype(np.int32)
            placed: Any = from_local_rows((batch, flat[number], number), self._mesh)
            batch, timestep, number = placed
            yield self._encode(batch) if self._encode else batch, timestep, number

    def _line(self, parts: list[RowErrors]) -> dict[str, Any]:
        """Means over all rows, and over the rows of each range."""
        rows = jax.tree.map(lambda *leaves: np.concatenate(leaves, dtype=np.float64), *parts)
        rows = jax.tree.map(lambda leaf: leaf[: self._timesteps.size], rows)
        ranges = {
            name: rearrange(rows[name]["error"], "(record range) -> range record", range=TIMESTEP_BUCKETS).mean(axis=1)
            for name in MODALITIES
        }
        return {
            "loss": float(sum(rows[name]["weighed"].mean() for name in MODALITIES)),
            **{f"loss_{name}": float(rows[name]["error"].mean()) for name in MODALITIES},
            "loss_by_timestep": {name: means.tolist() for name, means in ranges.items()},
        }


def validation_rows(config: TrainConfig) -> int:
    """Number of rows of a batch over all devices: those that training computes at once."""
    return config.batch_size // config.accumulate
