"""Steps whose loss or gradient is NaN or infinite: they stop the run, or a few of them are skipped.

RUN/nonfinite.jsonl   one line per such step: step, loss, gradient_norm, sample_ids (positions in the dataset), skipped

The compiled step itself skips such an update (train/step.py). The host checks both numbers when it fetches
metrics, once per log interval and before every checkpoint, so the state after such a step is never saved.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from con360av_jax.config.settings import TrainConfig
from con360av_jax.errors import DivergenceError
from con360av_jax.train.run_folder import append_line

DECIDING = ("loss", "gradient_norm")

logger = logging.getLogger(__name__)


def is_finite(metrics: Mapping[str, np.ndarray]) -> bool:
    """Whether loss and gradient norm of a step are finite; agrees with the decision of the compiled step."""
    return all(math.isfinite(metrics[name]) for name in DECIDING)


class NonFiniteSteps:
    """Collector of non-finite steps, which stops the run as the config says."""

    def __init__(self, path: Path, config: TrainConfig, skips: int):
        """`skips` is the number of consecutive steps that were skipped before the first one."""
        self._path, self._config = path, config
        self._waiting: list[tuple[int, Mapping[str, Array], np.ndarray]] = []
        self.skips = skips
        """Number of consecutive steps up to the last checked one that were skipped."""

    def add(self, step: int, metrics: Mapping[str, Array], sample_id: np.ndarray) -> None:
        """Adds the metrics of one step, which stay on the device, and the sample ids of this process's rows."""
        self._waiting.append((step, {name: metrics[name] for name in DECIDING}, sample_id))

    def check(self) -> None:
        """Checks all steps added since the last call.

        Raises:
            DivergenceError: a step is not finite, or with on_nan=skip more than `max_skips` consecutive ones are not.
        """
        waiting, self._waiting = self._waiting, []
        fetched = jax.device_get([metrics for _, metrics, _ in waiting])
        for (step, _, rows), values in zip(waiting, fetched, strict=True):
            if is_finite(values):
                self.skips = 0
            else:
                self.skips += 1
                self._report(step, {name: float(value) for name, value in values.items()}, rows)

    def _report(self, step: int, values: Mapping[str, float], rows: np.ndarray) -> None:
        skipped = self._config.on_nan == "skip"
        # Metrics are the same on every process, so all processes take part in the gathering.
        everyone = multihost_utils.process_allgather(rows) if jax.process_count() > 1 else rows
        ids = np.asarray(everyone).reshape(-1).tolist()
        if jax.process_index() == 0:
            line = {"step": step, **{name: str(value) for name, value in values.items()}, "sample_ids": ids}
            append_line(self._path, {**line, "skipped": skipped})
        what = (
            f"step {step} is not finite: loss {values['loss']}, gradient norm {values['gradient_norm']}, "
            f"sample ids {', '.join(map(str, ids))}"
        )
        if not skipped:
            raise DivergenceError(
                f"{what}: inspect these samples; resume from the last checkpoint with --config.train.on_nan skip, or "
                "with a lower train.learning_rate and --allow train.learning_rate"
            )
        if self.skips > self._config.max_skips:
            raise DivergenceError(
                f"{what}: that is number {self.skips} in a row, train.max_skips is {self._config.max_skips}; resume "
                "from the last checkpoint with a lower train.learning_rate and --allow train.learning_rate"
            )
        logger.warning("%s; its update is skipped", what)
