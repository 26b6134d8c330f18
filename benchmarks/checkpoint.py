"""Time that saving a checkpoint blocks training, compared with one copy of the same state in memory.

    python -m benchmarks.checkpoint --folder DISK_WITH_40_GB --out benchmarks/results/checkpoint_cpu.json

The state is that of a run: trained parameters, their moving average and Adam's two moments, in float32, with the
real names and shapes. Copy and save take turns; the next turn begins when the checkpoint is on disk. At published size
this needs 10 GB of memory, or 18 GB where saving copies from a device; --every N makes only every Nth array.
"""

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
from con360av_jax.train.checkpoint import CheckpointWriter, Progress, arrays_of
from con360av_jax.train.optimizer import make_optimizer, select
from con360av_jax.train.state import TrainState, init_state


def make_state(config: Config, every: int) -> TrainState:
    """State of a run before its first step, filled with ones, with every `every`th of the trained arrays."""
    _, shapes = joint_model(config, "float32")
    trainable = flatten(select(shapes, config.train.trainable)[0])
    kept = {name: jnp.ones(leaf.shape, jnp.float32) for name, leaf in list(trainable.items())[::every]}
    optimizer = make_optimizer(config.train)
    return jax.block_until_ready(jax.jit(lambda params: init_state(params, optimizer=optimizer))(unflatten(kept)))


def measure(config: Config, state: TrainState, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each counted round: one copy, the blocking part of saving, and the background writing after it."""
    seconds: dict[str, list[float]] = {"copy": [], "save_blocks": [], "written_after": []}
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(arrays_of(state))]
    # Array by array within memory that was touched before: the fastest possible copy of the state.
    source, target = (np.ones(max(sizes), np.uint8) for _ in range(2))
    # A step makes new arrays; those of the previous round may have a copy on the host already.
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
    """Measures and publishes."""
    parser = harness.parser(__doc__, rounds=3)
    parser.add_argument("--every", type=int, default=1, help="make every Nth array only, where memory is short")
    parser.add_argument("--folder", type=Path, help="disk to save to; the system's temporary folder if left out")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    # The disk need not hold more than the newest checkpoint and the one being written.
    config = replace(config, train=replace(config.train, keep_checkpoints=1))
    state = make_state(config, arguments.every)
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(arrays_of(state))]
    with tempfile.TemporaryDirectory(prefix="con360av-checkpoint-", dir=arguments.folder) as folder:
        seconds = measure(config, state, Path(folder), arguments.rounds)
    ratios = [save / copy for save, copy in zip(seconds["save_blocks"], seconds["copy"], strict=True)]
    result: harness.Json = {
        "benchmark": "checkpoint",
        **harness.environment(config),
        "trainable": config.train.trainable,
        "every": arguments.every,
        "arrays": len(sizes),
        "bytes": sum(sizes),
        "seconds": {name: harness.rounds_row(row) for name, row in seconds.items()},
        "blocks_in_copies": harness.rounds_row(ratios),
    }
    harness.publish(result, arguments.out)


if __name__ == "__main__":
    main()
