"""Converts NNX modules to (graphdef, params) and back; all other code uses pure functions of params."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import jax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

Module = TypeVar("Module", bound=nnx.Module)

# Nested dicts with string keys and arrays (or jax.ShapeDtypeStruct) as leaves; a list's indices become "0", "1", ...
# The type is open because a recursive one would make every `params["unet"]["audio"]` a type error.
Params: TypeAlias = dict[str, Any]


def split(module: Module) -> tuple["nnx.GraphDef[Module]", Params]:
    """Structure and parameters of `module`; every variable in it must be an nnx.Param."""
    graphdef, state = nnx.split(module, nnx.Param)
    return graphdef, _string_keys(nnx.to_pure_dict(state))


def merge(graphdef: "nnx.GraphDef[Module]", params: Params) -> Module:
    """The module with this structure and these parameters (the inverse of `split`)."""
    return nnx.merge(graphdef, _list_keys(params))


def apply(graphdef: "nnx.GraphDef[Module]", params: Params, *args: object, **kwargs: object) -> Any:
    """Calls the module that `graphdef` and `params` describe."""
    module: Any = merge(graphdef, params)
    return module(*args, **kwargs)


class KeyStream(nnx.Rngs):
    """Replaces nnx.Rngs while a module is built: key number n is fold_in(key, n).

    nnx.Rngs keeps its counters in variables, and under a trace each draw then costs more than the one before.
    """

    def __init__(self, key: jax.Array):
        super().__init__()
        self.key = key
        self.drawn = 0

    def params(self) -> jax.Array:
        """The next key."""
        self.drawn += 1
        return jax.random.fold_in(self.key, self.drawn)


def init(factory: Callable[[nnx.Rngs], nnx.Module], key: jax.Array) -> Params:
    """Initial parameters of the module that `factory` builds, on the default device.

    Call it outside jit: compiling a thousand draws takes minutes, drawing them takes a second (layers.uniform).
    """
    return split(_build(factory, key))[1]


def abstract(factory: Callable[[nnx.Rngs], Module]) -> tuple["nnx.GraphDef[Module]", Params]:
    """Structure and parameter shapes (jax.ShapeDtypeStruct leaves) without allocating anything."""
    return split(nnx.eval_shape(lambda key: _build(factory, key), jax.random.key(0)))


def _build(factory: Callable[[nnx.Rngs], Module], key: jax.Array) -> Module:
    return factory(KeyStream(key))


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": leaf}} -> {"a/b": leaf}, in the tree's order; empty dicts are left out."""
    return flatten_dict(dict(params), sep="/")


def unflatten(flat: Mapping[str, Any]) -> Params:
    """{"a/b": leaf} -> {"a": {"b": leaf}}, the inverse of `flatten`."""
    return unflatten_dict(dict(flat), sep="/")


def count(params: Params) -> int:
    """Number of parameters; works on shapes too."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _string_keys(tree: Mapping[Any, Any]) -> Params:
    return {
        str(name): _string_keys(value) if isinstance(value, Mapping) else value
        for name, value in sorted(tree.items(), key=lambda item: str(item[0]))
    }


def _list_keys(tree: Mapping[str, Any]) -> dict[Any, Any]:
    """Keys of digits become integers again, in numeric order, as NNX lists expect."""
    renamed = {int(name) if name.isdigit() else name: value for name, value in tree.items()}
    return {name: _list_keys(value) if isinstance(value, Mapping) else value for name, value in renamed.items()}
