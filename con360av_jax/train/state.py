"""State of a training run: step, trained parameters, their moving average and the optimizer's state."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from con360av_jax.models.functional import Params
from con360av_jax.sharding import RULES, Rules, shardings_for
from con360av_jax.train.stacking import stacked_shardings


@flax.struct.dataclass
class TrainState:
    """A pytree; left out of run-time shape checks, which would break jax.tree.map on it."""

    step: jax.Array
    """Updates made so far, int32."""
    params: Params
    """Trainable parameters, float32."""
    ema: Params
    """Exponential moving average of `params`, float32."""
    opt_state: optax.OptState


def init_state(trainable: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step; the moving average is a copy, so that the state can be donated."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), trainable)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
    )


def state_shardings(state: TrainState, mesh: Mesh, rules: Rules = RULES) -> TrainState:
    """Returns the shardings of an abstract or real state; moments are sharded as their parameters."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = shardings_for(state.params, mesh, rules)
    stacks = stacked_shardings(state.params, mesh, rules)

    def place(path: tuple[jax.tree_util.KeyEntry, ...], _: jax.Array) -> NamedSharding:
        entry = path[-1]
        return stacks[entry.key] if isinstance(entry, jax.tree_util.DictKey) else everywhere

    opt_state = jax.tree_util.tree_map_with_path(place, state.opt_state)
    return dataclasses.replace(state, step=everywhere, params=params, ema=params, opt_state=opt_state)
