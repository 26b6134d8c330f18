"""Training: mesh -> data -> state -> jit -> loop, with metrics, checkpoints and clean stops."""

import signal
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from con360av_jax.base.codecs import Codecs
from con360av_jax.base.pretrained import Pretrained, open_pretrained
from con360av_jax.config.settings import Config
from con360av_jax.data.loader import AnyExample, Loader, make_loader
from con360av_jax.data.source import Dataset, open_dataset
from con360av_jax.data.transforms import is_encoded
from con360av_jax.diffusion.loss import DropoutRates, dropout_rates
from con360av_jax.models.functional import Params
from con360av_jax.models.joint import joint_model
from con360av_jax.sharding import check_batch_size, from_local_rows, make_mesh, replicate, shardings_for
from con360av_jax.train import checkpoint, run_folder
from con360av_jax.train.best import VALIDATION, if_lower
from con360av_jax.train.checkpoint import CheckpointWriter, Progress
from con360av_jax.train.corrupt_records import CorruptRecordsLog
from con360av_jax.train.display import StepBar
from con360av_jax.train.encode import Encode, caption_tokens, open_encode
from con360av_jax.train.held_out import open_held_out
from con360av_jax.train.metrics import MetricsLog, drop_after
from con360av_jax.train.nonfinite import NonFiniteSteps
from con360av_jax.train.optimizer import make_optimizer, require_connectors_that_act, select
from con360av_jax.train.program import CompiledStep, compile_step
from con360av_jax.train.state import TrainState, init_state, state_shardings
from con360av_jax.train.step import cast_frozen
from con360av_jax.train.stop import StopRequest
from con360av_jax.train.throughput import peak_flops
from con360av_jax.train.trackers import Tracker, open_trackers

NullText = dict[str, Float[Array, "..."]]
StepConstants = tuple[NullText, DropoutRates, Key[Array, ""]]


class HeldOutLoss(Protocol):
    """Measure on held-out data between steps."""

    def due(self, step: int) -> bool:
        """Whether to measure after this step."""
        ...

    def __call__(self, step: int, state: TrainState, trackers: Sequence[Tracker]) -> float | None:
        """Writes what it measures; returns the held-out loss of the moving average, if it measured that."""
        ...


Advance = Callable[[TrainState, AnyExample], tuple[TrainState, dict[str, Array]]]


def train(
    config: Config,
    base: Path,
    dataset: Path,
    out: Path,
    *,
    validation: Path | None = None,
    resume: bool = False,
    allowed: Collection[str] = (),
) -> signal.Signals | None:
    """Trains up to step `config.train.steps`, or for `config.train.epochs`, and writes the run folder `out`.

    Args:
        config: all settings, which must fit `base` and `dataset`; `Config.on_base` makes them.
        base: pretrained folder; frozen parameters are read from there and never copied.
        dataset: dataset folder; without encoded fields, video and audio are encoded on the device in each step.
        validation: folder of held-out records, if any, to measure the loss on and to sample clips of.
        out: run folder; new, or with `resume` a run to continue from its newest intact checkpoint. The steps
            then equal those of an uninterrupted run, bit for bit.
        resume: whether to continue the run in `out`.
        allowed: paths of settings, such as "train.learning_rate", that may differ in a resumed run, and "dataset" if
            the dataset may.

    Returns:
        None after the last step, or the signal (SIGTERM, SIGINT) that stopped the run after a checkpoint.

    Raises:
        CheckpointError: `out` exists, or a run to resume is missing, corrupt or was made from other inputs; `base`
            is missing or has another config; or a checkpoint cannot be written.
        DatasetError: the dataset is missing, corrupt or has another config.
        ShardingError: the mesh does not fit the devices, the batch or a parameter.
        ConfigError: `allowed` names a setting that is unknown or may not change, or nothing could learn (`load_state`).
        DivergenceError: the loss or its gradient is NaN or infinite, see `config.train.on_nan`.
    """
    run = run_to_resume(out, config, base, dataset, allowed, validation) if resume else None
    if run is None:
        run_folder.refuse_existing(out)
    mesh = make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, mesh, config.train.accumulate)

    pretrained = open_pretrained(base)
    # Hashes would refuse a dataset whose corrupt records are to be skipped.
    records = open_dataset(dataset, verify="sizes" if config.train.on_corrupt == "skip" else "hashes")
    config = replace(config, train=config.train.in_steps(len(records)))
    loader = open_loader(config, records, pretrained)
    run_folder.require_same_model(config, pretrained.config, f"base {base}")
    state, frozen = load_state(config, pretrained, mesh)
    newest = None if run is None else checkpoint.step_to_resume(out)
    progress = Progress(step=0, next_batch=0, seed=config.train.seed)
    if newest is not None:
        state, progress = restore_state(state, out / "checkpoints" / str(newest))
    loader.set_state(progress.next_batch)

    encode = None if is_encoded(records.manifest.fields) else open_encode(pretrained, mesh, config.train.compute_dtype)
    held_out = open_held_out(config, validation, records, pretrained, mesh, state, frozen, encode, out)
    step = compile_step(config, mesh, state, frozen, count=peak_flops(jax.devices()[0].device_kind) is not None)
    advance = make_advance(step, frozen, encode, step_constants(config, pretrained, mesh), mesh)
    run_folder.write_run(out, config, base, dataset, validation, run)
    log = open_log(config, out, progress.step, step.flops)
    return run_steps(config, out, loader, state, progress, advance, log, held_out)


def run_to_resume(
    folder: Path, config: Config, base: Path, dataset: Path, allowed: Collection[str], validation: Path | None
) -> run_folder.Run:
    """Opens the run in `folder`; raises CheckpointError if there is none or `require_same_run` does."""
    run = run_folder.open_run(folder)
    run_folder.require_same_run(run, config, base, dataset, allowed, validation)
    return run


def make_advance(
    step: CompiledStep, frozen: Params, encode: Encode | None, constants: StepConstants, mesh: Mesh
) -> Advance:
    """Returns a function (state, batch of the loader) -> (state, metrics) that makes one step."""

    def advance(state: TrainState, batch: AnyExample) -> tuple[TrainState, dict[str, Array]]:
        rows = on_mesh(batch, mesh)
        return step.run(state, frozen, encode(rows) if encode else rows, *constants)

    return advance


def run_steps(
    config: Config,
    run: Path,
    loader: Loader,
    state: TrainState,
    progress: Progress,
    advance: Advance,
    log: MetricsLog,
    held_out: HeldOutLoss | None = None,
) -> signal.Signals | None:
    """Advances the state to the last step, or to the end of the step in which a signal came, and saves it."""
    settings, start = config.train, progress.step
    nonfinite = NonFiniteSteps(run / "nonfinite.jsonl", settings, progress.skips)
    corrupt = CorruptRecordsLog(run)
    with (
        closing(loader),
        closing(log),
        StepBar(config, start) as bar,
        CheckpointWriter(run, config) as writer,
        StopRequest() as stop,
    ):
        for done in range(start + 1, settings.steps + 1):
            with log.stall():
                batch = next(loader)
            state, metrics = advance(state, batch)
            log.add(metrics)
            nonfinite.add(done, metrics, batch["sample_id"])
            logs = done % settings.log_every == 0
            last = done == settings.steps or stop.agreed(logs)
            saves = last or any(
                every and done % every == 0 for every in (settings.checkpoint_every, settings.milestone_every)
            )
            measures = held_out is not None and held_out.due(done)
            # A line ends at every checkpoint, so that a run resumed there continues with the same lines.
            if saves or logs or measures:
                nonfinite.check()
                corrupt.add(loader.corrupt)
                writer.check()
                if line := log.flush(done):
                    bar.show(done, line)
            best = None
            if held_out and measures:
                # Before the checkpoint, so that a run resumed there has done it.
                with log.pause():
                    best = if_lower(held_out(done, state, log.trackers), done, writer.best)
            if saves or best:
                here = Progress(step=done, next_batch=loader.get_state(), seed=settings.seed, skips=nonfinite.skips)
                writer.save(state, here, best)
            if last:
                break
    return stop.received


def open_log(config: Config, run: Path, step: int, flops: float) -> MetricsLog:
    """Opens metrics.jsonl and the trackers from `step` on; lines of all logs after it are removed."""
    for name in ("metrics.jsonl", "nonfinite.jsonl", VALIDATION):
        drop_after(run / name, step)
    trackers = open_trackers(run, config, step) if jax.process_index() == 0 else []
    return MetricsLog(run / "metrics.jsonl", config.train.batch_size, flops, trackers)


def open_loader(config: Config, dataset: Dataset, pretrained: Pretrained) -> Loader:
    """Returns the loader of this process's rows of every global batch, from the first step on."""
    return make_loader(
        dataset,
        config,
        config.train.batch_size,
        config.train.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        tokenise=caption_tokens(pretrained),
    )


def load_state(config: Config, pretrained: Pretrained, mesh: Mesh) -> tuple[TrainState, Params]:
    """Returns the state before the first step and the frozen parameters, both sharded over the mesh.

    Raises ConfigError if what is to be trained is not there, or could never learn.
    """
    _, shapes = joint_model(config, config.train.compute_dtype)
    params = pretrained.params("joint", shardings_for(shapes, mesh))
    trainable, frozen = select(params, config.train.trainable)
    require_connectors_that_act(trainable, frozen)
    # Cast once here, so that the step neither holds nor reads them in float32.
    frozen = cast_frozen(frozen, config.train.compute_dtype)
    optimizer = make_optimizer(config.train)
    start = partial(init_state, optimizer=optimizer)
    shardings = state_shardings(jax.eval_shape(start, trainable), mesh)
    return jax.jit(start, out_shardings=shardings)(trainable), frozen


def restore_state(state: TrainState, step_folder: Path) -> tuple[TrainState, Progress]:
    """Reads a checkpoint into the shardings of `state`; returns the state and the progress of the run."""
    progress = checkpoint.read_progress(step_folder)
    fields = checkpoint.arrays_of(state)
    arrays = checkpoint.read_arrays(step_folder, {name: checkpoint.abstract(tree) for name, tree in fields.items()})
    restored = TrainState(
        step=jax.device_put(jnp.int32(progress.step), state.step.sharding),
        params=arrays["trainable"],
        ema=arrays["ema"],
        opt_state=arrays["optimizer"],
    )
    return restored, progress


def step_constants(config: Config, pretrained: Pretrained, mesh: Mesh) -> StepConstants:
    """Returns the arguments of the training step that stay the same for the whole run, on every device.

    They are the empty caption's embedding per modality, without batch axis, the dropout rates and the run's key.
    """
    null_text = {name: embedding[0] for name, embedding in Codecs(pretrained).encode_text([""]).items()}
    null_text, dropout = jax.device_put((null_text, dropout_rates(config.train)), replicate(mesh))
    return null_text, dropout, jax.random.key(config.train.seed)


def on_mesh(batch: AnyExample, mesh: Mesh) -> Any:
    """Returns the global batch of all processes' rows, split over the mesh."""
    # Positions in a dataset fit 32 bits; JAX has no 64-bit integers unless asked for.
    small = {**batch, "sample_id": batch["sample_id"].astype(np.int32)}
    return from_local_rows(small, mesh)
