"""Memory, FLOPs and collectives of one training step, read from its program, which is compiled from shapes alone."""

import math
import time
from dataclasses import dataclass, replace

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from con360av_jax.config.settings import Config, MeshConfig, Remat, require
from con360av_jax.data.fake import batch_spec
from con360av_jax.errors import ConfigError
from con360av_jax.plan.collectives import Collective, collectives
from con360av_jax.runtime import flops
from con360av_jax.sharding import batch_sharding, check_batch_size, make_mesh
from con360av_jax.train.program import abstract_start, trace_step


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on each device while a step runs."""

    trainable: int
    """Trained parameters (float32)."""
    ema: int
    """Moving average of the trained parameters (float32)."""
    optimizer: int
    """State of the optimizer."""
    frozen: int
    """Frozen parameters: those of norms in float32, the others in the compute dtype."""
    batch: int
    """One device's part of the batch."""
    gradients: int
    """Gradients of the trained parameters; part of `temporaries`."""
    temporaries: int
    """Activations kept for the backward pass, gradients and scratch space, as allocated by XLA's CPU compiler."""
    total: int
    """Inputs, temporaries, and outputs that are not donated inputs."""


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """Requirements of one compiled step."""

    rows: int
    """Samples that a device computes at once: its share of the batch, divided by train.accumulate."""
    remat: Remat
    """Remat policy of the step."""
    memory: Memory
    """Memory on each device (bytes)."""
    flops_per_clip: float
    """FLOPs of matrix products and convolutions, two per multiply-add, recomputation included."""
    xla_flops_per_clip: float
    """FLOPs as counted by XLA: with elementwise operations, but loops once and library calls as 0."""
    collectives: list[Collective]
    """Collectives of the step."""
    compile_seconds: float
    """Time for tracing and compiling (s)."""


def batch_parts(config: Config) -> int:
    """Returns the number of parts that a batch is split into over the mesh axes data and fsdp."""
    return config.mesh.data * config.mesh.fsdp


def on_devices(config: Config, devices: int) -> tuple[Config, list[str]]:
    """Returns `config` with a mesh and a batch for `devices` devices, and a description of each change.

    Raises ConfigError for less than one device.
    """
    require(devices >= 1, f"--devices {devices}: give 1 or more")
    changes: list[str] = []
    mesh = config.mesh
    if mesh.data * mesh.fsdp * mesh.tensor != devices:
        changes.append(
            f"the config's mesh data={mesh.data} fsdp={mesh.fsdp} tensor={mesh.tensor} has other than {devices} "
            f"devices: planned with data={devices}"
        )
        config = replace(config, mesh=MeshConfig(data=devices))
    smallest = batch_parts(config) * config.train.accumulate
    if config.train.batch_size % smallest:
        changes.append(f"batch_size={config.train.batch_size} does not divide by {smallest}: planned with {smallest}")
        config = with_rows(config, 1)
    return config, changes


def rows_of(config: Config) -> int:
    """Returns the number of samples that a device computes at once."""
    return config.train.batch_size // (batch_parts(config) * config.train.accumulate)


def with_rows(config: Config, rows: int, remat: Remat | None = None) -> Config:
    """Returns `config` with `rows` samples at once on each device, and another remat policy if given."""
    batch_size = rows * batch_parts(config) * config.train.accumulate
    train = replace(config.train, batch_size=batch_size, remat=config.train.remat if remat is None else remat)
    return replace(config, train=train)


def measure(config: Config) -> Requirements:
    """Compiles one step for the devices of this process and reads its program; nothing is computed or allocated.

    Raises:
        ConfigError: the trainable set is empty, or XLA does not report the program's memory.
        ShardingError: the mesh does not fit the devices, the batch or a parameter.
    """
    began = time.perf_counter()
    mesh = make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, mesh, config.train.accumulate)
    state, frozen = abstract_start(config, mesh)
    traced = trace_step(config, mesh, state, frozen)
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - began
    found, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    if found is None:
        raise ConfigError("this version of XLA does not report the memory of a program on CPUs: use jax 0.10")
    inside = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    trainable = _local_bytes(state.params)
    return Requirements(
        rows=rows_of(config),
        remat=config.train.remat,
        memory=Memory(
            trainable=trainable,
            ema=_local_bytes(state.ema),
            optimizer=_local_bytes(state.opt_state),
            frozen=_local_bytes(frozen),
            batch=_batch_bytes(config, mesh),
            gradients=trainable,
            temporaries=found.temp_size_in_bytes,
            total=inside + found.temp_size_in_bytes,
        ),
        flops_per_clip=flops.count(traced.jaxpr.jaxpr) / config.train.batch_size,
        xla_flops_per_clip=cost.get("flops", math.nan) * mesh.size / config.train.batch_size,
        collectives=collectives(compiled.as_text() or ""),
        compile_seconds=seconds,
    )


def _local_bytes(tree: PyTree[jax.ShapeDtypeStruct]) -> int:
    """Returns the bytes of sharded arrays on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _batch_bytes(config: Config, mesh: Mesh) -> int:
    split = batch_sharding(mesh)
    specs = jax.tree.leaves(batch_spec(config, config.train.batch_size))
    return sum(math.prod(split.shard_shape(spec.shape)) * min(spec.dtype.itemsize, 4) for spec in specs)
