"""One training step as a pure function: gradients of the trainable parameters, update, moving average, metrics."""

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, PyTree

from con360av_jax.config.settings import NoiseSchedule, PerModality, TrainConfig
from con360av_jax.denoiser import Denoiser, Text
from con360av_jax.diffusion.loss import Batch, Draws, DropoutRates, denoising_loss, draw
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.sharding import RULES, Rules
from con360av_jax.train.optimizer import learning_rate, make_optimizer, merge, updates_made
from con360av_jax.train.stacking import stack
from con360av_jax.train.state import TrainState

TrainStep: TypeAlias = Callable[
    [TrainState, Params, Batch, Text, DropoutRates, Key[Array, ""]], tuple[TrainState, dict[str, Array]]
]
"""Training step as made by `make_train_step`: (state, frozen, batch, null_text, dropout, key) -> (state, metrics)."""

Update: TypeAlias = Callable[[TrainState, Params, dict[str, Array]], tuple[TrainState, dict[str, Array]]]
"""Update as made by `make_update`: (state, gradients, metrics) -> (state, metrics)."""


# Paths of the parameters of norms; a list of norms counts its members.
NORMS = re.compile(r".*norm[^/]*(/\d+)?/(scale|bias)")


def cast_frozen(frozen: Params, dtype: DTypeLike) -> Params:
    """Returns the frozen parameters of the joint model in `dtype`, except those of norms, which compute in float32."""

    def converted(path: str, leaf: Array) -> Array:
        return leaf.astype(jnp.float32 if NORMS.fullmatch(path) else dtype)

    return unflatten({path: converted(path, leaf) for path, leaf in flatten(frozen).items()})


def accumulated(
    loss: Callable[..., tuple[Array, dict[str, Array]]],
    params: Params,
    rows: tuple[PyTree[Array], ...],
    parts: int,
    mesh: Mesh | None = None,
) -> tuple[Params, dict[str, Array]]:
    """Returns gradients and metrics of `loss(params, *rows)`, computed part by part of the rows and averaged.

    `loss` is a mean over rows. Metrics called "bucket_..." are sums and are added up, the others are means. Each copy
    of the model along the mesh axis "data" adds up its own parts first; the copies reduce their sums only once.
    """
    gradient = jax.grad(loss, has_aux=True)
    if parts == 1:
        return gradient(params, *rows)
    over_parts = partial(_over_parts, gradient, parts)
    if mesh is None or mesh.shape["data"] == 1:
        return over_parts(params, *rows)

    def over_copies(params: Params, *rows: PyTree[Array]) -> tuple[Params, dict[str, Array]]:
        gradients, metrics = over_parts(params, *rows)
        return jax.lax.pmean(gradients, "data"), {
            name: (jax.lax.psum if name.startswith("bucket_") else jax.lax.pmean)(value, "data")
            for name, value in metrics.items()
        }

    # Only "data" is manual; fsdp and tensor stay with the compiler. Its check of values that vary over "data" would
    # need marks at the start of every loop in the model.
    by_copy = jax.shard_map(
        over_copies,
        mesh=mesh,
        in_specs=(PartitionSpec(), *(PartitionSpec("data") for _ in rows)),
        out_specs=PartitionSpec(),
        axis_names={"data"},
        check_vma=False,
    )
    return by_copy(params, *rows)


def _over_parts(
    gradient: Callable[..., tuple[Params, dict[str, Array]]], parts: int, params: Params, *rows: PyTree[Array]
) -> tuple[Params, dict[str, Array]]:
    """Averages gradients and metrics over `parts` of the local rows; see `accumulated`."""
    # Neighbouring rows go to different parts, so that each part is spread over all devices like the whole.
    split = jax.tree.map(lambda leaf: rearrange(leaf, "(row part) ... -> part row ...", part=parts), rows)

    def add(total: PyTree[Array], part: tuple[PyTree[Array], ...]) -> tuple[PyTree[Array], None]:
        return jax.tree.map(jnp.add, total, gradient(params, *part)), None

    shapes = jax.eval_shape(gradient, params, *jax.tree.map(lambda leaf: leaf[0], split))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (gradients, metrics), _ = jax.lax.scan(add, zeros, split)
    share = jnp.float32(1 / parts)
    gradients = jax.tree.map(lambda leaf: leaf * share, gradients)
    return gradients, {name: sum_ if name.startswith("bucket_") else sum_ * share for name, sum_ in metrics.items()}


def newest_share(config: TrainConfig, updates: Int[Array, ""]) -> Float[Array, ""]:
    """Returns the share of the newest parameters in their moving average, 1 - decay, after `updates` earlier updates.

    The decay of update s (0-based) is 0 at s = 0 and then min((1 + s) / (10 + s), `config.ema_decay`), as in diffusers'
    EMAModel: a run's first thousands of updates would otherwise leave the average near the initial parameters.
    """
    s = updates.astype(jnp.float32)
    # 1 - (1 + s) / (10 + s) = 9 / (10 + s); the difference of two numbers near 1 would lose digits.
    return jnp.where(s == 0, 1.0, jnp.maximum(9.0 / (10.0 + s), 1.0 - config.ema_decay))


def make_update(config: TrainConfig, rules: Rules = RULES) -> Update:
    """Returns a function (state, gradients, metrics of the loss) -> (state, metrics) that makes one update.

    It adds the norm of the gradient before clipping ("gradient_norm") and "learning_rate" to the metrics. With
    `config.on_nan` "skip" a step whose loss or gradient norm is not finite changes nothing but its number. `rules` are
    those that shard the state.
    """
    optimizer = make_optimizer(config, rules)
    rate = learning_rate(config)

    def update(state: TrainState, gradients: Params, metrics: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        made = updates_made(state.opt_state)
        # Without decay the average equals the parameters; skipping it saves a kernel per parameter.
        ema = optax.incremental_update(params, state.ema, newest_share(config, made)) if config.ema_decay else params
        metrics = {
            **metrics,
            "gradient_norm": optax.tree.norm(stack(gradients, rules)),
            "learning_rate": jnp.asarray(rate(made), jnp.float32),
        }
        after = TrainState(step=state.step + 1, params=params, ema=cast(Params, ema), opt_state=opt_state)
        if config.on_nan == "skip":
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
            same = dataclasses.replace(state, step=after.step)
            after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, same)
        return after, metrics

    return update


def make_train_step(
    denoiser: Denoiser, schedules: PerModality[NoiseSchedule], config: TrainConfig, mesh: Mesh | None = None
) -> TrainStep:
    """Returns a step (state, frozen, batch, null_text, dropout, key) -> (state, metrics) for `jax.jit`, state donated.

    `denoiser` takes the merged parameters of the joint model; `frozen` and the trained ones come from
    `optimizer.select`, `dropout` from `dropout_rates`: the rates in `config` are not read. `key` stays the same for the
    whole run: each step folds in its number. Metrics are those of `denoising_loss` and of `make_update`; float32, on
    the device. `mesh`, if given, tells which devices hold copies of the model.
    """
    update = make_update(config)

    def step(
        state: TrainState,
        frozen: Params,
        batch: Batch,
        null_text: Text,
        dropout: DropoutRates,
        key: Key[Array, ""],
    ) -> tuple[TrainState, dict[str, Array]]:
        fixed = cast_frozen(frozen, config.compute_dtype)

        def loss(params: Params, drawn: Draws) -> tuple[Array, dict[str, Array]]:
            return denoising_loss(denoiser, merge(params, fixed), drawn, schedules, config)

        # Drawn for the whole batch at once, so that accumulation does not change the random numbers.
        drawn = draw(batch, null_text, dropout, jax.random.fold_in(key, state.step), schedules, config)
        gradients, metrics = accumulated(loss, state.params, (drawn,), config.accumulate, mesh)
        return update(state, gradients, metrics)

    return step
