"""Weight normalisation (Salimans & Kingma 2016, https://arxiv.org/abs/1602.07868, eq. 2), folded away on reading.

(1)  w = g v / ||v||,  the norm over all axes but the first, for each index of the first

PyTorch stores g and v in place of the weight w: as weight_g and weight_v (torch.nn.utils.weight_norm), or as
parametrizations.weight.original0 and .original1 (torch.nn.utils.parametrizations.weight_norm). Its first axis is
a convolution's outputs, a transposed convolution's inputs; it takes the norm there in both, unless told otherwise.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from con360av_jax.errors import CheckpointError, some
from convert.torch_files.weights import Weights

# Endings of the names of g and v, in alphabetical order.
ENDINGS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
FLOATING = ("float16", "bfloat16", "float32", "float64")


def folded_name(name: str) -> str:
    """Name of the weight that a g or a v belongs to; any other name unchanged."""
    for ending in (ending for pair in ENDINGS for ending in pair):
        if name.endswith(f".{ending}"):
            return f"{name.removesuffix(ending)}weight"
    return name


def fold_weight_norm(weights: Weights) -> Weights:
    """`weights` with (1) in place of each pair of g and v; computed whenever that tensor is read.

    Equation (1) is evaluated in float64 and rounded once, to the dtype of v. PyTorch evaluates it in float32 and
    differs by a few units in the last place, depending on the processor. A norm of 0 gives NaN, as in PyTorch.
    A folded tensor is reported as read from v's file.

    Raises CheckpointError listing all weights where g or v is missing, that are also stored unnormalised, or whose
    g and v do not fit each other in shape or dtype.
    """
    names: dict[str, list[str]] = {}
    for name in weights:
        names.setdefault(folded_name(name), []).append(name)
    infos, readers, problems = {}, {}, []
    for weight, stored in names.items():
        if stored == [weight]:
            infos[weight], readers[weight] = weights.infos[weight], weights.readers[weight]
        elif problem := _problem(weight, stored, weights):
            problems.append(problem)
        else:
            g, v = sorted(stored)
            infos[weight] = weights.infos[v]
            readers[weight] = partial(_fold, weights, g, v)
    if problems:
        raise CheckpointError(
            f"{weights.path}: weight normalisation does not fit: {some(problems, '; ')}; get it again"
        )
    return replace(weights, infos=infos, readers=readers) if len(names) < len(weights) else weights


def _problem(weight: str, stored: list[str], weights: Weights) -> str:
    """Reason why a weight cannot be folded; "" if it can."""
    stem = weight.removesuffix("weight")
    pairs = [{stem + ending for ending in pair} for pair in ENDINGS]
    if set(stored) not in pairs:
        missing = [name for pair in pairs if pair & set(stored) for name in sorted(pair - set(stored))]
        return f"{weight} is there as {', '.join(stored)}" + (f" without {', '.join(missing)}" if missing else "")
    g, v = (weights.infos[name] for name in sorted(stored))
    wanted = (*v.shape[:1], *[1] * (len(v.shape) - 1))
    if g.shape != wanted:
        return f"{sorted(stored)[0]} has the shape {g.shape}, wanted {wanted}"
    if g.dtype != v.dtype or v.dtype not in FLOATING:
        return f"{weight} is there as {g.dtype} and {v.dtype}, wanted twice the same of {', '.join(FLOATING)}"
    return ""


def _fold(weights: Weights, g: str, v: str) -> np.ndarray:
    magnitude, direction = weights[g].astype(np.float64), weights[v]
    wide = direction.astype(np.float64)
    # NaN and infinity are reported by `require_finite`, which checks every tensor.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        norm = np.sqrt(np.sum(np.square(wide), axis=tuple(range(1, wide.ndim)), keepdims=True))
        wide *= magnitude / norm
        return wide.astype(direction.dtype)
