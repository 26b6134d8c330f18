"""RUN/checkpoints/best: a file that names the checkpoint whose moving average has the lowest held-out loss.

It is JSON, {step, loss}, and takes the place of the one before it in one step when the checkpoint is complete. A
checkpoint that it names, or is about to name, is kept. Everything in it follows from validation.jsonl and the finished
checkpoints, so that a resumed run restores it from them.
"""

import json
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from con360av_jax.errors import CheckpointError
from con360av_jax.runtime.files import write_text
from con360av_jax.train.metrics import read_lines

BEST = "best"
VALIDATION = "validation.jsonl"


@dataclass(frozen=True, kw_only=True)
class Best:
    """A checkpoint and its held-out loss."""

    step: int
    loss: float


def lowest(run: Path, steps: Collection[int]) -> Best | None:
    """Returns the earliest of `steps` with the lowest held-out loss of the moving average, or None without any."""
    found = [
        Best(step=line["step"], loss=line["loss"])
        for line in read_lines(run / VALIDATION)
        if line["weights"] == "ema" and line["step"] in steps and math.isfinite(line["loss"])
    ]
    return min(found, key=lambda best: best.loss, default=None)


def if_lower(loss: float | None, step: int, best: Best | None) -> Best | None:
    """Returns the checkpoint of `step` as the best one if its held-out loss is a number below that of `best`."""
    if loss is None or not math.isfinite(loss) or (best is not None and loss >= best.loss):
        return None
    return Best(step=step, loss=loss)


def write_best(checkpoints: Path, best: Best | None) -> None:
    """Names `best` in its file, or removes the file."""
    if best is None:
        (checkpoints / BEST).unlink(missing_ok=True)
    else:
        write_text(checkpoints / BEST, json.dumps(asdict(best)) + "\n", CheckpointError)


def read_best(path: Path) -> Best:
    """Reads RUN/checkpoints/best; raises CheckpointError if there is none or it is corrupt."""
    try:
        return Best(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist: a run has it after its first validation (con360av train --validation DATASET)"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is corrupt: resume the run to restore it, or give RUN/checkpoints/STEP"
        ) from error
