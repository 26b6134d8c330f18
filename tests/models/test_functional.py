"""Modules to pure functions and back, and parameter counts at published width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from con360av_jax.config.files import load_config
from con360av_jax.models import functional
from con360av_jax.models.functional import Params
from con360av_jax.models.joint import JointModel
from con360av_jax.models.layers import linear


class Chain(nnx.Module):
    """Twelve layers, so that the order of list indices as strings and as numbers differs."""

    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([linear(3, 3, rngs=rngs, dtype=jnp.float32) for _ in range(12)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x


def test_merge_is_the_inverse_of_split():
    module = Chain(nnx.Rngs(1))
    graphdef, params = functional.split(module)
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(functional.merge(graphdef, params)(x), module(x))
    np.testing.assert_array_equal(functional.apply(graphdef, params, x), module(x))


def test_params_have_string_keys_only_and_flatten_and_back():
    params = functional.init(Chain, jax.random.key(0))
    flat = functional.flatten(params)
    assert "layers/11/kernel" in flat and len(flat) == 24
    assert jax.tree.structure(functional.unflatten(flat)) == jax.tree.structure(params)


def test_paths_keep_the_order_of_the_tree_and_leave_out_empty_dicts():
    """report.json lists tensors in this order, and its hash names a base."""
    tree = {"b": {"1": 0, "0": {"z": 1, "a": 2}}, "empty": {}, "a": 3}
    assert [*functional.flatten(tree).items()] == [("b/1", 0), ("b/0/z", 1), ("b/0/a", 2), ("a", 3)]
    assert str(functional.unflatten(functional.flatten(tree))) == str({"b": tree["b"], "a": 3})


def test_same_key_gives_the_same_parameters_and_another_key_others():
    first, again, other = (functional.flatten(functional.init(Chain, jax.random.key(seed))) for seed in (0, 0, 1))
    for path, leaf in first.items():
        np.testing.assert_array_equal(leaf, again[path])
    assert not np.array_equal(first["layers/0/kernel"], other["layers/0/kernel"])
    assert not np.array_equal(first["layers/0/kernel"], first["layers/1/kernel"])


def test_abstract_has_the_structure_and_shapes_of_init():
    graphdef, shapes = functional.abstract(Chain)
    params = functional.init(Chain, jax.random.key(0))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), params
    )
    assert graphdef == functional.split(functional.merge(graphdef, params))[0]
    assert functional.count(shapes) == 12 * (9 + 3)


@pytest.fixture(scope="module")
def published() -> Params:
    """Shapes of the joint model at published width."""
    model = load_config("published").model
    return functional.abstract(lambda rngs: JointModel(model, rngs=rngs))[1]


def _millions(params: Params) -> float:
    return round(functional.count(params) / 1e6, 2)


def test_parameter_counts_are_the_published_ones(published: Params):
    motion = {path: leaf for path, leaf in functional.flatten(published["unet"]["video"]).items() if "motion" in path}
    without_mid = {path: leaf for path, leaf in motion.items() if "mid_block" not in path}
    assert _millions(published["unet"]["audio"]) == 415.95
    assert round(_millions(published["unet"]["video"]) - _millions(motion), 2) == 859.52
    assert (_millions(motion), _millions(without_mid)) == (453.21, 417.14)
    assert [_millions(published["environment_encoder"][name]) for name in ("video", "audio")] == [100.30, 21.04]
    assert [_millions(published["connector"][name]) for name in ("video", "audio")] == [222.99, 123.42]
