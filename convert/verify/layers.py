"""Layer-by-layer comparison: each of our layers gets the outputs of the original's earlier layers.

Errors therefore do not accumulate, and every layer that differs is found, not only the first one.
"""

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from con360av_jax.models import functional
from con360av_jax.models.functional import Params
from convert.verify.jax_networks import Arrays, Network, watched

# Dense layers of ours whose counterpart in transformers ends in the activation that ours leaves to its caller.
ACTIVATED_INSIDE = r"text_model\.(encoder\.layer\.\d+\.intermediate|pooler)"
# These layers run before pixels are folded into the batch in our motion modules, after it in the original's.
PER_PIXEL = r"motion_modules\.\d+\.proj_in$"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Error of one output or one layer."""

    name: str
    """Name of the output, or of the layer in the original's library."""
    error: float | None
    """||converted - original||_2 / ||original||_2; None if they cannot be compared."""
    note: str = ""
    """Reason why they cannot be compared."""


def compare(name: str, found: np.ndarray, wanted: np.ndarray) -> Comparison:
    """Relative L2 error of `found`; infinite if `wanted` is all zeros and `found` is not."""
    if found.shape != wanted.shape:
        return Comparison(name=name, error=None, note=f"shape {found.shape} here, {wanted.shape} there")
    difference, size = (float(np.linalg.norm(x.astype(np.float64).ravel())) for x in (found - wanted, wanted))
    return Comparison(name=name, error=_relative(difference, size))


def _relative(difference: float, size: float) -> float:
    return 0.0 if difference == 0 else difference / size if size else math.inf


def layer_names(tensors: Mapping[str, str], below: Sequence[str]) -> dict[str, str]:
    """Names of the original's layers by our paths, both dotted, derived from the names of the weights.

    Ancestors of a layer are included as long as both sides use the same last name; omitted layers have equal names.

    Args:
        tensors: names of the original's tensors by the paths of ours.
        below: path of our module within these paths; other paths belong to other modules.
    """
    names: dict[str, str] = {}
    for path, tensor in tensors.items():
        ours, theirs = path.split("/")[len(below) : -1], tensor.split(".")[:-1]
        while ours and theirs:
            names[".".join(ours)] = ".".join(theirs)
            if ours.pop() != theirs.pop():
                break
    return names


def run_both_ways(
    network: Network,
    graphdef: "nnx.GraphDef[nnx.Module]",
    params: Params,
    inputs: Mapping[str, jax.Array],
    wanted: Arrays,
    names: Mapping[str, str],
) -> tuple[Arrays, list[Comparison], float]:
    """Runs our module by itself, and again with every layer given the outputs of the original's earlier layers.

    Args:
        network: description of our module.
        graphdef: structure of our module.
        params: parameters of our module.
        inputs: inputs of our module.
        wanted: outputs of the original's layers by name, channels last.
        names: names of the original's layers by our paths; omitted layers have the same name on both sides.

    Returns:
        The outputs of our module by itself, the errors of all our layers in the order in which they finish, and the
        seconds of the second run.
    """
    notes: dict[str, str] = {}  # by layer, in order; empty if it is compared

    # One program for both runs, compiled as a whole: compiling takes most of the time, and three times as long for
    # operations one by one.
    @jax.jit
    def run(
        params: Params, inputs: Mapping[str, jax.Array], original: Mapping[str, jax.Array], given: jax.Array
    ) -> Any:
        norms: dict[str, jax.Array] = {}

        def visit(path: str, output: Any, options: Mapping[str, Any]) -> Any:
            name = names.get(path, path)
            # A down block returns all skip features; the last is its output.
            found = output[-1] if isinstance(output, list) else output
            notes[name] = _obstacle(name, path, found.shape, wanted)
            if notes[name]:
                return output
            theirs = in_our_layout(original[name], found.shape, path)
            if options.get("silu"):  # our norms include the activation that follows
                theirs = jax.nn.silu(theirs)
            norms[name] = _norms(found, theirs)
            return output if isinstance(output, list) else jnp.where(given, theirs, output)

        module = functional.merge(graphdef, params)
        with watched(module, visit):
            return network.run(module, inputs), norms

    outputs, _ = jax.device_get(run(params, inputs, wanted, jnp.asarray(False)))
    start = time.perf_counter()
    _, norms = jax.device_get(run(params, inputs, wanted, jnp.asarray(True)))
    seconds = time.perf_counter() - start
    rows = [
        Comparison(name=name, error=None if note else _relative(*map(float, norms[name])), note=note)
        for name, note in notes.items()
    ]
    return outputs, rows, seconds


def _norms(found: jax.Array, wanted: jax.Array) -> jax.Array:
    """L2 norms of the difference and of `wanted`, both divided by the largest of `wanted` so that squares don't vanish.

    Computed with the network, because the outputs of all layers are too large to be kept.
    """
    largest = jnp.max(jnp.abs(wanted))
    scale = jnp.where(largest == 0, 1.0, largest)
    return jnp.stack([jnp.linalg.norm(jnp.ravel(x / scale)) for x in (found - wanted, wanted)])


def _obstacle(name: str, path: str, shape: tuple[int, ...], wanted: Arrays) -> str:
    """Reason why our layer cannot be compared; "" if it can."""
    if name not in wanted:
        return "the original ran no such layer"
    if re.fullmatch(ACTIVATED_INSIDE, name):
        return "the original's ends in its activation"
    return "" if in_our_layout(wanted[name], shape, path) is not None else f"{shape} here, {wanted[name].shape} there"


def in_our_layout(theirs: Any, shape: tuple[int, ...], path: str) -> Any:
    """The original's channels-last output (NumPy or JAX) in our shape; None if it does not fit.

    The original folds frames (or, in motion modules, pixels) into the batch, and repeats values that all frames of a
    clip share.
    """
    if theirs.ndim == 0 or theirs.shape[-1] != shape[-1]:
        return None
    if re.search(PER_PIXEL, path):
        batch, frames, height, width, channels = shape
        fits = theirs.shape == (batch * height * width, frames, channels)
        return rearrange(theirs, "(b h w) f c -> b f h w c", b=batch, h=height) if fits else None
    if theirs.size == math.prod(shape):
        return theirs.reshape(shape)
    if theirs.size % math.prod(shape) or theirs.shape[0] % shape[0]:
        return None
    repeated = theirs.reshape(shape[0], -1, *shape[1:])
    # The last bits of equal rows may differ after a matrix product, depending on their position in the batch.
    rounding = 1e-5 * np.abs(theirs).max() if isinstance(theirs, np.ndarray) else 0.0
    same = not isinstance(theirs, np.ndarray) or (np.abs(repeated - repeated[:, :1]) <= rounding).all()
    return repeated[:, 0] if same else None
