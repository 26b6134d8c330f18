"""One training step as a pure function: gradients of the trainable parameters, update, moving average, metrics."""

from typing import Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from con360av_jax.config import NoiseSchedule, PerModality, TrainConfig
from con360av_jax.diffusion.guidance import Text
from con360av_jax.diffusion.loss import Apply, Batch, training_loss
from con360av_jax.models.functional import Params
from con360av_jax.train.optimizer import learning_rate, make_optimizer, merge
from con360av_jax.train.stacking import stack
from con360av_jax.train.state import TrainState


@runtime_checkable
class TrainStep(Protocol):
    """See `make_train_step`."""

    def __call__(
        self, state: TrainState, frozen: Params, batch: Batch, null_text: Text, key: Key[Array, ""], /
    ) -> tuple[TrainState, dict[str, Array]]: ...


def cast_floating(params: Params, dtype: jnp.dtype) -> Params:
    """`params` with every floating-point leaf in `dtype`; done once at loading, this halves the frozen weights."""

    def converted(leaf: Array) -> Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(converted, params)


def make_train_step(apply: Apply, schedules: PerModality[NoiseSchedule], config: TrainConfig) -> TrainStep:
    """A function (state, frozen, batch, null_text, key) -> (state, metrics) for `jax.jit` with the state donated.

    `apply` takes the merged parameters of the joint model; `frozen` and the trained ones come from `optimizer.select`.
    `key` stays the same for the whole run: each step folds in its number. Metrics are those of `training_loss`, the
    norm of the gradient before clipping ("gradient_norm") and "learning_rate"; float32, on the device.
    """
    optimizer = make_optimizer(config)
    rate = learning_rate(config)
    compute_dtype = jnp.dtype(config.compute_dtype)

    def step(
        state: TrainState, frozen: Params, batch: Batch, null_text: Text, key: Key[Array, ""], /
    ) -> tuple[TrainState, dict[str, Array]]:
        fixed = cast_floating(frozen, compute_dtype)

        def loss(params: Params) -> tuple[Array, dict[str, Array]]:
            step_key = jax.random.fold_in(key, state.step)
            return training_loss(apply, merge(params, fixed), batch, null_text, step_key, schedules, config)

        (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        # Without decay the average is the parameters themselves; saying so spares a short run a kernel per parameter.
        ema = optax.incremental_update(params, state.ema, 1.0 - config.ema_decay) if config.ema_decay else params
        metrics["gradient_norm"] = optax.tree.norm(stack(gradients))
        metrics["learning_rate"] = jnp.asarray(rate(state.step), jnp.float32)
        return TrainState(step=state.step + 1, params=params, ema=cast(Params, ema), opt_state=opt_state), metrics

    return step
