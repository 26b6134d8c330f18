"""What one training step needs on each device: the step is compiled from shapes alone, and its program is read."""

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
    """Parameters that learn, float32."""
    ema: int
    """Their moving average, float32."""
    optimizer: int
    frozen: int
    """Parameters that do not learn, in the compute dtype."""
    batch: int
    gradients: int
    """Of what learns; they lie among the temporaries."""
    temporaries: int
    """Activations kept for the backward pass, gradients and scratch space, as XLA's CPU compiler lays them out."""
    total: int
    """Everything that goes in, temporaries, and what comes out without taking the place of what went in."""


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """One compiled step."""

    rows: int
    """Samples that a device computes at once: its share of the batch, of one part of it with train.accumulate."""
    remat: Remat
    memory: Memory
    flops_per_clip: float
    """Matrix products and convolutions, two operations per multiply-add, recomputation included."""
    xla_flops_per_clip: float
    """XLA's count of the compiled program: also elementwise work, but loops once and library calls as nothing."""
    collectives: list[Collective]
    compile_seconds: float


def parts(config: Config) -> int:
    """Parts that each share of a batch is split into, over devices."""
    return config.mesh.data * config.mesh.fsdp


def on_devices(config: Config, devices: int) -> tuple[Config, list[str]]:
    """`config` with a mesh and a batch for so many devices, and what had to be changed for it.

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
    smallest = parts(config) * config.train.accumulate
    if config.train.batch_size % smallest:
        changes.append(f"batch_size={config.train.batch_size} does not divide by {smallest}: planned with {smallest}")
        config = with_rows(config, 1)
    return config, changes


def rows_of(config: Config) -> int:
    """Samples that a device computes at once."""
    return config.train.batch_size // (parts(config) * config.train.accumulate)


def with_rows(config: Config, rows: int, remat: Remat | None = None) -> Config:
    """`config` with so many samples at once on each device, and another remat policy if given."""
    batch_size = rows * parts(config) * config.train.accumulate
    train = replace(config.train, batch_size=batch_size, remat=config.train.remat if remat is None else remat)
    return replace(config, train=train)


def measure(config: Config) -> Requirements:
    """Compiles one step on the devices that are here, and reads its program; nothing is computed or allocated.

    Raises:
        ConfigError: the trainable set is empty, or XLA does not tell the program's memory.
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
        raise ConfigError("this version of XLA does not say what memory a program takes on CPUs: use jax 0.10")
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
    """What one device holds of arrays with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _batch_bytes(config: Config, mesh: Mesh) -> int:
    split = batch_sharding(mesh)
    specs = jax.tree.leaves(batch_spec(config, config.train.batch_size))
    return sum(math.prod(split.shard_shape(spec.shape)) * min(spec.dtype.itemsize, 4) for spec in specs)
