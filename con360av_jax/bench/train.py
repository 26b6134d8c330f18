"""Benchmark of training: the compiled step of a training run on random weights, with nothing to download."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jax.stages import Compiled
from jaxtyping import Array
from rich.console import Console
from rich.progress import track

from con360av_jax.bench.loader import open_or_make
from con360av_jax.bench.results import Json, device, environment
from con360av_jax.config.settings import Config, require
from con360av_jax.data.fake import batch_spec, fake_batch
from con360av_jax.data.loader import AnyExample, make_loader
from con360av_jax.diffusion.loss import dropout_rates
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.sharding import check_batch_size, make_mesh, replicate
from con360av_jax.train.loop import on_mesh
from con360av_jax.train.optimizer import make_optimizer
from con360av_jax.train.program import abstract_start, compile_step
from con360av_jax.train.state import TrainState, init_state
from con360av_jax.train.throughput import memory_peak_gib, utilisation

PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain")
# Steps before the clock starts: memory is allocated and the loader's threads have filled their buffers.
WARM_UP = 3
# Batches made ahead, which are then used in turn: drawing their random numbers takes longer than a step may.
DIFFERENT_BATCHES = 4
# Number of random numbers that kernels repeat: drawing two billion of them, or compiling a program per shape, takes
# minutes.
NOISE = 1_000_003

Advance = Callable[[TrainState, AnyExample], tuple[TrainState, dict[str, Array]]]


def bench_train(config: Config, dataset: Path | None, records: int, steps: int) -> Json:
    """Measures time, FLOPs, memory and waiting for data of `steps` training steps.

    The step is that of `con360av train`, with its shardings, donation and dtypes, and batches go from the host
    to the devices in the same way. They come from `dataset` through the loader; without one from a temporary
    dataset of `records` random records; with `records` 0 they are made before the clock starts.

    Raises:
        ConfigError: a count is too small, or the trainable set is empty.
        DatasetError: the dataset is missing, corrupt, not encoded or of another config.
        ShardingError: the mesh does not fit the devices, the batch or a parameter.
    """
    require(steps >= 1, f"--steps {steps}: give 1 or more")
    require(records >= 0, f"--records {records}: give 0 for batches made ahead, or 1 or more")
    require(config.train.batch_size >= 1, f"a batch of {config.train.batch_size} samples: give 1 or more")
    mesh = make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, mesh, config.train.accumulate)
    with open_batches(config, dataset, records) as (data, batches):
        state, frozen = random_start(config, mesh)
        began = time.perf_counter()
        step = compile_step(config, mesh, state, frozen, count=True)
        compile_seconds = time.perf_counter() - began
        texts = batch_spec(config, 1)["text"]
        null_text = {name: np.zeros(text.shape[1:], text.dtype) for name, text in texts.items()}
        null_text = jax.device_put(null_text, replicate(mesh))
        dropout = jax.device_put(dropout_rates(config.train), replicate(mesh))
        key = jax.random.key(config.train.seed)

        def advance(state: TrainState, batch: AnyExample) -> tuple[TrainState, dict[str, Array]]:
            return step.run(state, frozen, on_mesh(batch, mesh), null_text, dropout, key)

        ticks, waited = timed(advance, state, batches, steps)
    seconds = [after - before for before, after in pairwise(ticks)]
    median, batch_size = float(np.median(seconds)), config.train.batch_size
    return {
        "benchmark": "train",
        **environment(config, PACKAGES),
        **device(),
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "data": data,
        "trainable": config.train.trainable,
        "compute_dtype": config.train.compute_dtype,
        "remat": config.train.remat,
        "batch_size": batch_size,
        "steps": steps,
        "step_seconds": {"median": median, "p90": float(np.quantile(seconds, 0.9)), "rounds": seconds},
        "clips_per_second": batch_size / median,
        "data_stall": waited / (ticks[-1] - ticks[0]),
        "flops_per_step": step.flops,
        "flops_per_clip": step.flops / batch_size,
        "mfu": utilisation(step.flops, median),
        "compile_seconds": compile_seconds,
        "memory": {**_program_memory(step.run), "device_peak_gib": memory_peak_gib()},
    }


def random_start(config: Config, mesh: Mesh) -> tuple[TrainState, Params]:
    """Returns a first state and frozen parameters with random values, sharded and in the dtypes of training."""
    state, frozen = abstract_start(config, mesh)
    begin = jax.jit(
        partial(init_state, optimizer=make_optimizer(config.train)),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, state),
        donate_argnums=0,
    )
    return begin(_random(state.params)), _random(frozen)


def _random(shapes: Params) -> Params:
    """Makes parameters: kernels uniform in +-1/sqrt(fan_in), biases 0, scales 1; one device's part at a time."""
    noise = np.random.default_rng(0).uniform(-1.0, 1.0, NOISE).astype(np.float32)

    def part(index: tuple[slice, ...] | None, kind: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        shape = [len(range(*cut.indices(size))) for cut, size in zip(index or (), leaf.shape, strict=True)]
        if kind != "kernel":
            return np.full(shape, kind == "scale", leaf.dtype)
        scaled = noise * np.float32(math.prod(leaf.shape[:-1]) ** -0.5)
        return np.resize(scaled.astype(leaf.dtype), shape)

    return unflatten(
        {
            path: jax.make_array_from_callback(
                leaf.shape, leaf.sharding, partial(part, kind=path.rpartition("/")[2], leaf=leaf)
            )
            for path, leaf in flatten(shapes).items()
        }
    )


@contextmanager
def open_batches(config: Config, dataset: Path | None, records: int) -> Iterator[tuple[Json, Iterator[AnyExample]]]:
    """Yields a description of the batches and an endless iterator over them; arguments as in `bench_train`."""
    batch_size = config.train.batch_size
    if dataset is None and not records:
        made = [fake_batch(config, batch_size, seed) for seed in range(DIFFERENT_BATCHES)]
        yield {"name": "batches made ahead"}, itertools.cycle(made)
        return
    with (
        open_or_make(config, dataset, records) as (name, found),
        closing(make_loader(found, config, batch_size, config.train.seed)) as loader,
    ):
        yield {"name": name, "records": len(found), "threads": config.train.loader_threads}, loader


def timed(advance: Advance, state: TrainState, batches: Iterator[AnyExample], steps: int) -> tuple[list[float], float]:
    """Runs the steps; returns the times at which they were done, `steps` + 1, and the seconds spent waiting for data.

    As in training, a step is handed to the devices before the previous one is done; one extra step at the end
    keeps this so for the last timed one.
    """
    ticks: list[float] = []
    waited, before = 0.0, None
    for _ in track(range(WARM_UP + steps + 1), description="training", console=Console(stderr=True)):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked if len(ticks) >= WARM_UP else 0.0
        state, metrics = advance(state, batch)
        if before is not None:
            jax.block_until_ready(before)
            ticks.append(time.perf_counter())
        before = metrics
    jax.block_until_ready(before)
    return ticks[WARM_UP - 1 :], waited


def _program_memory(program: Compiled) -> Json:
    """Returns the memory on each device by the compiler's account: inputs (with state and batch), and temporaries."""
    found = program.memory_analysis()
    if found is None:
        return {"parameters_gib": None, "temporaries_gib": None}
    return {
        "parameters_gib": found.argument_size_in_bytes / 2**30,
        "temporaries_gib": found.temp_size_in_bytes / 2**30,
    }
