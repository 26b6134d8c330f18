"""Stacking of small parameters into one array per shape for the optimizer.

A joint model has over a thousand small parameters. Updated one by one they cost a few tiny kernels each: on GPUs the
launches, on CPUs most of the compile time. Members of a stack have one shape and one sharding rule, so stacking moves
nothing between devices and is the same on every mesh; a large parameter stays alone and is never copied.
"""

import math
from typing import cast

import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.sharding import RULES, Rules, partition_spec, shardings_for

# Above this an update is bound by memory, no longer by the number of kernels: 0.5 MiB of float32.
STACKED_ELEMENTS = 1 << 17


def members(params: Params, rules: Rules = RULES) -> dict[str, tuple[str, ...]]:
    """Returns the paths "a/b/c" of the parameters in each stack, in order; each parameter is in exactly one.

    A stack is named by shape and split, as "64x64" or "256x64 fsdp,tensor"; a parameter that stays alone by its path.
    """
    stacks: dict[str, list[str]] = {}
    for path, leaf in sorted(flatten(params).items()):
        split = ",".join(str(axis) for axis in partition_spec(path, leaf.ndim, rules) or ())
        small = math.prod(leaf.shape) <= STACKED_ELEMENTS
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        name = f"{shape} {split}".strip() if small else path.replace("/", ".")
        stacks.setdefault(name, []).append(path)
    return {name: tuple(paths) for name, paths in stacks.items()}


def stack(params: Params, rules: Rules = RULES) -> Params:
    """Stacks parameters: {name of a stack: its members along a new first axis}."""
    flat = flatten(params)
    return {name: jnp.stack([flat[path] for path in paths]) for name, paths in members(params, rules).items()}


def unstack(stacks: Params, like: Params, rules: Rules = RULES) -> Params:
    """Splits stacks into the nested dict of `like`, from which only paths and shapes are read."""
    places = {path: (name, row) for name, paths in members(like, rules).items() for row, path in enumerate(paths)}
    return unflatten({path: stacks[places[path][0]][places[path][1]] for path in flatten(like)})


def stacked_shardings(params: Params, mesh: Mesh, rules: Rules = RULES) -> Params:
    """Returns the sharding of each stack: that of its members, with the new first axis not split."""
    places = flatten(shardings_for(params, mesh, rules))
    return {
        name: NamedSharding(mesh, PartitionSpec(None, *places[paths[0]].spec))
        for name, paths in members(params, rules).items()
    }


def on_stacks(inner: optax.GradientTransformation, rules: Rules = RULES) -> optax.GradientTransformation:
    """`inner` applied to stacks; it must treat every member alike and alone, except for the norm of all of them."""

    def init(params: optax.Params) -> optax.OptState:
        return inner.init(stack(cast(Params, params), rules))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        gradients = cast(Params, updates)
        stacks = None if params is None else stack(cast(Params, params), rules)
        changes, state = inner.update(stack(gradients, rules), state, stacks)
        return unstack(cast(Params, changes), gradients, rules), state

    return optax.GradientTransformation(init, update)
