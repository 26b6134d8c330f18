"""Measures how long saving a checkpoint holds up training, beside one copy of the same state in memory.

    python -m benchmarks.checkpoint --folder DISK_WITH_40_GB --out benchmarks/results/checkpoint_cpu.json

The state is what a run of the config saves: what trains, its moving average and Adam's two moments, in float32, of the
real names and shapes. Copy and save take turns; the next turn begins when the checkpoint is on disk. At published size
this needs 10 GB of memory, or 18 GB where saving copies from a device; --every N makes only every Nth array.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks import harness
from con360av_jax.config.files import load_config
from con360av_jax.config.settings import Config
from con360av_jax.models.functional import flatten, unflatten
from con360av_jax.models.joint import joint_model
from con360av_jax.runtime.files import write_text
from con360av_jax.train.checkpoint import CheckpointWriter, Progress, arrays_of
from con360av_jax.train.optimizer import make_optimizer, select
from con360av_jax.train.state import TrainState, init_state


def make_state(config: Config, every: int) -> TrainState:
    """The state of a run before its first step, of ones, with every `every`th of the arrays that train."""
    _, shapes = joint_model(config)
    trainable = flatten(select(shapes, config.train.trainable)[0])
    kept = {name: jnp.ones(leaf.shape, jnp.float32) for name, leaf in list(trainable.items())[::every]}
    optimizer = make_optimizer(config.train)
    return jax.block_until_ready(jax.jit(lambda params: init_state(params, optimizer=optimizer))(unflatten(kept)))


def measure(config: Config, state: TrainState, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each counted round: one copy, what saving blocks, and what is then written in the background."""
    seconds: dict[str, list[float]] = {"copy": [], "save_blocks": [], "written_after": []}
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(arrays_of(state))]
    # Array by array within memory that was touched before: no copy of the state could be faster.
    source, target = (np.ones(max(sizes), np.uint8) for _ in range(2))
    # A step makes new arrays; those of the round before may have a copy on the host already.
    renew = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 0, tree), donate_argnums=0)
    for number in track(range(rounds + 1), description="saving", console=Console(stderr=True)):
        start = time.perf_counter()
        for size in sizes:
            np.copyto(target[:size], source[:size])
        copied = time.perf_counter() - start
        state = jax.block_until_ready(renew(state))
        with CheckpointWriter(folder, config) as writer:
            start = time.perf_counter()
            writer.save(state, Progress(step=number, next_batch=number, seed=0))
            blocked = time.perf_counter() - start
        written = time.perf_counter() - start - blocked
        if number:
            for name, value in zip(seconds, (copied, blocked, written), strict=True):
                seconds[name].append(value)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="published", help="config whose state is saved")
    parser.add_argument("--every", type=int, default=1, help="make every Nth array only, where memory is short")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds after one that is not")
    parser.add_argument("--folder", type=Path, help="disk to save to; left out, the system's temporary folder")
    parser.add_argument("--out", type=Path, help="JSON file with the results")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    # The disk need not hold more than the newest checkpoint and the one being written.
    config = replace(config, train=replace(config.train, keep_checkpoints=1))
    state = make_state(config, arguments.every)
    leaves = jax.tree.leaves(arrays_of(state))
    described: harness.Json = {
        "benchmark": "checkpoint",
        **harness.environment(config),
        "trainable": config.train.trainable,
        "every": arguments.every,
        "arrays": len(leaves),
        "bytes": sum(leaf.nbytes for leaf in leaves),
    }
    del leaves
    with tempfile.TemporaryDirectory(prefix="con360av-checkpoint-", dir=arguments.folder) as folder:
        seconds = measure(config, state, Path(folder), arguments.rounds)
    ratios = [save / copy for save, copy in zip(seconds["save_blocks"], seconds["copy"], strict=True)]
    result: harness.Json = {
        **described,
        "seconds": {name: {"median": statistics.median(row), "rounds": row} for name, row in seconds.items()},
        "blocks_in_copies": {"median": statistics.median(ratios), "rounds": ratios},
    }
    if arguments.out:
        write_text(arguments.out, json.dumps(result, indent=2) + "\n")
    Console().print_json(data=result)


if __name__ == "__main__":
    main()
