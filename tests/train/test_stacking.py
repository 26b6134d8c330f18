"""Small parameters updated as stacks: the same training, on any mesh, with nothing lost."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from con360av_jax.config.settings import MeshConfig
from con360av_jax.models.functional import Params, flatten
from con360av_jax.sharding import make_mesh
from con360av_jax.train.stacking import STACKED_ELEMENTS, members, on_stacks, stack, stacked_shardings, unstack


def _params() -> Params:
    random = np.random.default_rng(0)

    def leaf(*shape: int) -> jax.Array:
        return jnp.asarray(random.standard_normal(shape), jnp.float32)

    return {
        "b": {"to_q": {"kernel": leaf(8, 4)}, "norm": {"scale": leaf(4), "bias": leaf(4)}},
        "a": {"to_q": {"kernel": leaf(8, 4)}, "to_out": {"kernel": leaf(8, 4)}},
        "big": {"proj": {"kernel": leaf(2, STACKED_ELEMENTS)}},
    }


def test_a_stack_holds_one_shape_and_one_rule_and_every_parameter_once():
    found = members(_params())
    assert found == {
        "8x4 fsdp,tensor": ("a/to_q/kernel", "b/to_q/kernel"),
        "8x4 tensor,fsdp": ("a/to_out/kernel",),
        "4": ("b/norm/bias", "b/norm/scale"),
        "big.proj.kernel": ("big/proj/kernel",),
    }


def test_unstacking_is_the_inverse_of_stacking():
    params = _params()
    found = unstack(stack(params), params)
    assert list(flatten(found)) == list(flatten(params))
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_names_do_not_depend_on_the_order_of_the_tree():
    params = _params()
    turned = {name: params[name] for name in reversed(params)}
    assert members(params) == members(turned)


def test_adamw_on_stacks_is_adamw_on_each_parameter():
    """Also with clipping: the global norm sums the same numbers in another order."""
    chain = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2, weight_decay=0.1))
    params = wanted = _params()
    stacks, plain = on_stacks(chain), chain
    stacked_state, plain_state = stacks.init(params), plain.init(params)
    for number in range(3):
        gradient = jax.tree.map(lambda leaf, number=number: jnp.sin(leaf * (number + 1)), wanted)
        with jax.numpy_dtype_promotion("standard"):
            updates, stacked_state = stacks.update(gradient, stacked_state, params)
            params = optax.apply_updates(params, updates)
            updates, plain_state = plain.update(gradient, plain_state, wanted)
            wanted = optax.apply_updates(wanted, updates)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6), params, wanted)


@pytest.mark.parametrize("axes", [MeshConfig(), MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(fsdp=4)])
def test_stacks_lie_split_as_their_members(axes: MeshConfig):
    places = stacked_shardings(_params(), make_mesh(axes))
    assert {name: place.spec for name, place in places.items()} == {
        "8x4 fsdp,tensor": P(None, "fsdp", "tensor"),
        "8x4 tensor,fsdp": P(None, "tensor", "fsdp"),
        "4": P(None),
        "big.proj.kernel": P(None, None, "fsdp"),
    }
