"""The training loop: mesh -> data -> parameters -> state -> jit -> steps, with metrics, checkpoints and clean stops."""

import signal
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from con360av_jax.config import Config
from con360av_jax.data.loader import Loader, make_loader
from con360av_jax.data.source import open_dataset
from con360av_jax.data.transforms import Example
from con360av_jax.denoiser import joint_model
from con360av_jax.diffusion.loss import Batch
from con360av_jax.models.functional import Params
from con360av_jax.pretrained import Codecs, Pretrained, open_pretrained
from con360av_jax.sharding import batch_sharding, check_batch_size, make_mesh, replicate, shardings_for
from con360av_jax.train import checkpoint
from con360av_jax.train.checkpoint import CheckpointWriter, Progress
from con360av_jax.train.display import StepBar
from con360av_jax.train.metrics import MetricsLog, drop_after
from con360av_jax.train.optimizer import make_optimizer, select
from con360av_jax.train.program import compile_step
from con360av_jax.train.state import TrainState, init_state, state_shardings
from con360av_jax.train.step import cast_floating
from con360av_jax.train.stop import StopRequest

NullText = dict[str, Float[Array, "..."]]
Advance = Callable[[TrainState], tuple[TrainState, dict[str, Array]]]


def train(config: Config, base: Path, dataset: Path, out: Path, *, resume: bool = False) -> signal.Signals | None:
    """Trains to step `config.train.steps` and leaves the run in `out`.

    Args:
        config: all settings; its model must be that of `base`.
        base: pretrained folder; what is not trained stays there.
        dataset: dataset folder with encoded fields.
        out: run folder; new, or with `resume` the run to go on with from its newest checkpoint. The steps that follow
            equal those of a run that never stopped, bit for bit.
        resume: whether to go on.

    Returns:
        None at the last step, or the signal (SIGTERM, SIGINT) that stopped the run after a checkpoint.

    Raises:
        CheckpointError: `out` exists (or with `resume` does not), is damaged, or was made with other settings, another
            base or another dataset; or `base` is missing or of another config.
        DatasetError: the dataset is missing, damaged or of another config.
        ShardingError: the mesh does not fit the devices, the batch or a parameter.
        ConfigError: the loss is no longer a number.
    """
    run = checkpoint.open_run(out) if resume else None
    if run is None:
        checkpoint.refuse_existing(out)
    else:
        checkpoint.require_same_run(run, config, base, dataset)

    mesh = make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, mesh)
    loader = open_loader(config, dataset)
    pretrained = open_pretrained(base)
    checkpoint.require_same_model(config, pretrained.config, f"base {base}")
    state, frozen = load_state(config, pretrained, mesh)
    if run is not None and (steps := checkpoint.finished_steps(run.folder)):
        state = restore_state(state, run.folder / "checkpoints" / str(steps[-1]), loader)
    step = compile_step(config, mesh, state, frozen)
    null_text = null_embeddings(pretrained, mesh)
    checkpoint.write_run(out, config, base, dataset)
    drop_after(out / "metrics.jsonl", int(state.step))

    key = jax.random.key(config.train.seed)

    def advance(state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        return step(state, frozen, on_mesh(next(loader), mesh), null_text, key)

    return make_steps(config, out, loader, state, advance)


def make_steps(config: Config, run: Path, loader: Loader, state: TrainState, advance: Advance) -> signal.Signals | None:
    """Advances the state to the last step, or to the end of the step in which a signal came, and saves it there."""
    start = int(state.step)
    log = MetricsLog(run / "metrics.jsonl", config.train.batch_size)
    with closing(loader), StepBar(config, start) as bar, CheckpointWriter(run, config) as writer, StopRequest() as stop:
        for done in range(start + 1, config.train.steps + 1):
            state, metrics = advance(state)
            log.add(metrics)
            last = done == config.train.steps or stop.received is not None
            saves = last or done % config.train.checkpoint_every == 0
            # A line ends at every checkpoint, so that a run resumed there continues with the same lines.
            if saves or done % config.train.log_every == 0:
                bar.show(done, log.flush(done))
            if saves:
                writer.save(state, Progress(step=done, next_batch=loader.get_state(), seed=config.train.seed))
            if last:
                break
    return stop.received


def open_loader(config: Config, dataset: Path) -> Loader:
    """This process's share of every global batch, from the first step on."""
    return make_loader(
        open_dataset(dataset),
        config,
        config.train.batch_size,
        config.train.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def load_state(config: Config, pretrained: Pretrained, mesh: Mesh) -> tuple[TrainState, Params]:
    """The state before the first step and the frozen parameters, both where the mesh wants them."""
    _, shapes = joint_model(config)
    params = pretrained.params("joint", shardings_for(shapes, mesh))
    trainable, frozen = select(params, config.train.trainable)
    # Once here, so that the step neither holds nor reads them in float32.
    frozen = cast_floating(frozen, jnp.dtype(config.train.compute_dtype))
    optimizer = make_optimizer(config.train)
    start = partial(init_state, optimizer=optimizer)
    shardings = state_shardings(jax.eval_shape(start, trainable), mesh)
    return jax.jit(start, out_shardings=shardings)(trainable), frozen


def restore_state(state: TrainState, step_folder: Path, loader: Loader) -> TrainState:
    """The state that lies in `step_folder`, in the shardings of `state`; moves `loader` to its place."""
    progress = checkpoint.read_progress(step_folder)
    fields = {"trainable": state.params, "ema": state.ema, "optimizer": state.opt_state}
    arrays = checkpoint.read_arrays(step_folder, {name: checkpoint.abstract(tree) for name, tree in fields.items()})
    loader.set_state(progress.next_batch)
    return TrainState(
        step=jax.device_put(jnp.int32(progress.step), state.step.sharding),
        params=arrays["trainable"],
        ema=arrays["ema"],
        opt_state=arrays["optimizer"],
    )


def null_embeddings(pretrained: Pretrained, mesh: Mesh) -> NullText:
    """The empty caption's embedding per modality, without batch axis, on every device."""
    embeddings = Codecs(pretrained).encode_text([""])
    return jax.device_put({name: embedding[0] for name, embedding in embeddings.items()}, replicate(mesh))


def on_mesh(batch: Example, mesh: Mesh) -> Batch:
    """The global batch made of every process's rows, split over the mesh."""
    # Positions in a dataset fit 32 bits; JAX has no 64-bit integers unless asked for.
    batch = {**batch, "sample_id": batch["sample_id"].astype(np.int32)}
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
