"""The compiled training step with the shardings of its inputs and outputs, from arrays or from shapes alone."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jax.stages import Compiled, Traced

from con360av_jax.config.settings import Config
from con360av_jax.data.fake import batch_spec
from con360av_jax.diffusion.loss import dropout_rates
from con360av_jax.models.functional import Params
from con360av_jax.models.joint import joint_model
from con360av_jax.runtime import flops
from con360av_jax.sharding import batch_sharding, replicate, shardings_for
from con360av_jax.train.optimizer import make_optimizer, select
from con360av_jax.train.state import TrainState, init_state, state_shardings
from con360av_jax.train.step import cast_frozen, make_train_step
from con360av_jax.train.validation import make_validation_loss, validation_rows

Tree = TypeVar("Tree")


class CompiledStep(NamedTuple):
    """The compiled program of a run."""

    run: Compiled
    """The program (state, frozen, batch, null_text, dropout, key) -> (state, metrics)."""
    flops: float
    """FLOPs of one step over all devices, without recomputation by remat; 0 if not counted."""


def compile_step(config: Config, mesh: Mesh, state: TrainState, frozen: Params, *, count: bool) -> CompiledStep:
    """Traces and compiles the training step; to `count` its FLOPs, a step with remat is traced without it, too.

    `state` and `frozen` are arrays or jax.ShapeDtypeStruct with shardings: nothing is computed or allocated.
    """
    traced = plain = trace_step(config, mesh, state, frozen)
    if count and config.train.remat != "none":
        plain = trace_step(replace(config, train=replace(config.train, remat="none")), mesh, state, frozen)
    operations = float(flops.count(plain.jaxpr.jaxpr)) if count else 0.0
    return CompiledStep(traced.lower().compile(), operations)


def trace_step(config: Config, mesh: Mesh, state: TrainState, frozen: Params) -> Traced:
    """Traces the training step; arguments as in `compile_step`."""
    denoiser, _ = joint_model(config, config.train.compute_dtype)
    everywhere, split = replicate(mesh), batch_sharding(mesh)
    here = jax.tree.map(lambda leaf: leaf.sharding, (state, frozen))
    step = jax.jit(
        make_train_step(denoiser, config.schedule, config.train, mesh),
        donate_argnums=0,
        in_shardings=(*here, split, everywhere, everywhere, everywhere),
        out_shardings=(here[0], everywhere),
    )
    batch = device_batch_spec(config, config.train.batch_size)
    null_text = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), batch["text"])
    return step.trace(state, frozen, batch, null_text, dropout_rates(config.train), jax.random.key(0))


def compile_validation(config: Config, mesh: Mesh, state: TrainState, frozen: Params) -> Compiled:
    """Compiles the held-out loss (trainable, frozen, batch, timestep, row number) -> errors, for all kinds of weights.

    `state` and `frozen` as in `compile_step`.
    """
    denoiser, _ = joint_model(config, config.train.compute_dtype)
    everywhere, split = replicate(mesh), batch_sharding(mesh)
    here = jax.tree.map(lambda leaf: leaf.sharding, (state.params, frozen))
    loss = jax.jit(
        make_validation_loss(denoiser, config.schedule, config.train),
        in_shardings=(*here, split, split, split),
        out_shardings=everywhere,
    )
    batch = device_batch_spec(config, validation_rows(config.train))
    return loss.lower(state.params, frozen, batch, batch["sample_id"], batch["sample_id"]).compile()


def device_batch_spec(config: Config, batch_size: int) -> Any:
    """Structure of a batch on the device, where sample ids have 32 bits."""
    batch = batch_spec(config, batch_size)
    return {**batch, "sample_id": jax.ShapeDtypeStruct(batch["sample_id"].shape, np.int32)}


def abstract_start(config: Config, mesh: Mesh) -> tuple[TrainState, Params]:
    """Returns shapes and shardings of the first state and of the frozen parameters; nothing is allocated.

    Raises ConfigError if `config.train.trainable` selects nothing, ShardingError if a parameter does not fit the mesh.
    """
    _, shapes = joint_model(config, config.train.compute_dtype)
    trainable, frozen = select(_placed(shapes, shardings_for(shapes, mesh)), config.train.trainable)
    state = jax.eval_shape(partial(init_state, optimizer=make_optimizer(config.train)), trainable)
    rounded = jax.eval_shape(partial(cast_frozen, dtype=config.train.compute_dtype), frozen)
    places = jax.tree.map(lambda leaf: leaf.sharding, frozen)
    return _placed(state, state_shardings(state, mesh)), _placed(rounded, places)


def _placed(shapes: Tree, places: Tree) -> Tree:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places
    )
