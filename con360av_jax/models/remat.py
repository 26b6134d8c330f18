"""Rematerialisation policies: which activations the backward pass recomputes instead of storing.

"products" keeps the outputs of convolutions and matrix products and computes norms, activations and softmax again:
much less memory for a few per cent of time. "blocks" keeps only what goes into a block (residual block, transformer,
motion module, connector): the least memory, for one more forward pass.
"""

from collections.abc import Callable
from typing import Any

from flax import nnx
from jaxtyping import Array

from con360av_jax.config.settings import Remat

PRODUCTS = ("dot_general", "conv_general_dilated")


def _keeps_products(primitive: Any, *_: object, **__: object) -> bool:
    """A policy of jax.checkpoint: whether the output of `primitive` is kept."""
    return primitive.name in PRODUCTS


POLICIES: dict[Remat, Callable[..., bool] | None] = {"products": _keeps_products, "blocks": None}


def run(module: nnx.Module, *inputs: Any, remat: Remat) -> Array:
    """Calls `module`, whose output is one array, under the policy."""
    call: Callable[..., Array] = type(module).__call__
    if remat == "none":
        return call(module, *inputs)
    return nnx.remat(call, policy=POLICIES[remat])(module, *inputs)
