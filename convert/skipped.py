"""Tensors that a table skips: each must hold what the model computes in its place, within the precision of its dtype.

A tensor t passes for the formula's values f if it has f's shape and

    |t - f| <= eps |f| + 2^-16,                                                                                    (1)

eps being the spacing of numbers near 1 in the coarsest dtype that holds all of t, since files stored in half precision
are also found converted back; 2^-16 is more than libraries differ by that compute f in float32. Integers must be equal.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from con360av_jax.errors import CheckpointError
from convert.rules import Skip, Table, entries_for

LIBRARIES_DIFFER = 2.0**-16
HALVES = (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16))


def require_formulas(source: Mapping[str, np.ndarray], table: Table) -> None:
    """Reads every tensor that `table` skips; raises CheckpointError naming all that are not their formula's values."""
    problems = [
        f"{name} {problem}"
        for name in source
        for entry in entries_for(name, table)
        if isinstance(entry, Skip) and (problem := difference(source[name], entry))
    ]
    if problems:
        raise CheckpointError(
            f"{len(problems)} tensors hold other numbers than the models here compute in their place, and the weights "
            "beside them may be trained with those: get the weights as first published: " + "; ".join(problems)
        )


def difference(tensor: np.ndarray, entry: Skip) -> str:
    """Describes the difference of a skipped tensor from its formula; "" if there is none."""
    try:
        wanted = entry.formula(tensor.shape)
    except ValueError as error:
        return f"has {error}"
    given, exact = tensor.astype(np.float64), wanted.astype(np.float64)
    bound = 0.0 if tensor.dtype.kind in "biu" else _spacing(tensor) * np.abs(exact) + LIBRARIES_DIFFER
    wrong = ~(np.abs(given - exact) <= bound)  # NaN is wrong
    if not wrong.any():
        return ""
    first = tuple(int(axis) for axis in np.argwhere(wrong)[0])
    return (
        f"differs in {np.count_nonzero(wrong)} of {wrong.size} values, first at {list(first)}: "
        f"{given[first]:.4g}, wanted {exact[first]:.4g} ({entry.because})"
    )


def _spacing(tensor: np.ndarray) -> float:
    """Spacing of numbers near 1 in the coarsest dtype that holds every value of `tensor`."""
    for half in HALVES:
        with np.errstate(over="ignore", invalid="ignore"):
            if np.array_equal(tensor.astype(half).astype(tensor.dtype), tensor):
                return float(jnp.finfo(half).eps)
    return float(jnp.finfo(tensor.dtype).eps)
