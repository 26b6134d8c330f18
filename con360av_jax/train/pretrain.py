"""Pretraining of one part of a base: the loop, checkpoints, resume and logs of training with another objective."""

import signal
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key

from con360av_jax.base.parts import PARTS, nested, part_factory, shapes_below
from con360av_jax.base.pretrained import Pretrained, open_pretrained
from con360av_jax.config.pretraining import Part
from con360av_jax.config.settings import Config
from con360av_jax.data.loader import AnyExample, Loader
from con360av_jax.data.transforms import Tokenise
from con360av_jax.models import functional
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.sharding import Rules, batch_sharding, check_batch_size, make_mesh, replicate
from con360av_jax.train import checkpoint, run_folder
from con360av_jax.train.checkpoint import Progress
from con360av_jax.train.encode import caption_tokens
from con360av_jax.train.loop import on_mesh, restore_state, run_steps
from con360av_jax.train.metrics import MetricsLog, drop_after
from con360av_jax.train.objectives.choose import make_objective
from con360av_jax.train.objectives.objective import Batch, Keys, Objective
from con360av_jax.train.optimizer import make_optimizer, merge, select
from con360av_jax.train.pretraining_data import TrainingData
from con360av_jax.train.pretraining_measures import HeldOutMeasures
from con360av_jax.train.run_datasets import with_earlier
from con360av_jax.train.state import TrainState, init_state, state_shardings
from con360av_jax.train.step import accumulated, make_update
from con360av_jax.train.trackers import open_trackers

# The parts are small beside the joint model: every device holds them whole, batches are split.
RULES: Rules = ((r".*", P()),)
LOGS = ("metrics.jsonl", "nonfinite.jsonl", "validation.jsonl")

ObjectiveStep = Callable[[TrainState, Params, Batch, Key[Array, ""]], tuple[TrainState, dict[str, Array]]]
"""Training step as made by `make_objective_step`: (state, frozen, batch, key) -> (state, metrics)."""


def pretrain(
    config: Config,
    part: Part,
    base: Path,
    data: TrainingData,
    out: Path,
    *,
    resume: bool = False,
    allowed: Collection[str] = (),
) -> signal.Signals | None:
    """Trains `part` of `base` up to step `config.train.steps` and writes the run folder `out`.

    Args:
        config: all settings; its networks must be those of `base`, whose measured scaling factors count.
        part: part of the base to train.
        base: pretrained folder; the parameters to start from, and those of other parts, are read from there.
        data: source of training examples and of held-out ones, which are measured at every checkpoint.
        out: run folder; new, or with `resume` a run to continue from its newest intact checkpoint. The steps
            then equal those of an uninterrupted run, bit for bit.
        allowed: settings such as "train.learning_rate", and "dataset", that may differ in a resumed run.

    Returns:
        None after the last step, or the signal (SIGTERM, SIGINT) that stopped the run after a checkpoint.

    Raises:
        CheckpointError: `out` exists, or a run to resume is missing, corrupt or was made from other inputs; `base`
            is missing or has other networks; or a file cannot be written.
        DatasetError, DivergenceError: the data are missing, corrupt or lack what the objective needs; see `train`.
        ShardingError, ConfigError: the mesh does not fit the devices or the batch, the config does not fit the
            objective, or `allowed` names a setting that may not change.
    """
    run = run_folder.open_pretraining(out) if resume else None
    pretrained = open_pretrained(base)
    run_folder.require_same_networks(config, pretrained.config, f"base {base}")
    config = replace(config, model=pretrained.config.model)
    if run is None:
        run_folder.refuse_existing(out)
    else:
        run_folder.require_same_pretraining(run, config, base, part, data.describe(), allowed)
    mesh = make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, mesh, config.train.accumulate)
    objective, tokenise = make_objective(part, config), caption_tokens(pretrained)
    loader, held_out = open_loader(config, objective, data, tokenise), data.held_out(objective, config, tokenise)
    state, frozen = load_state(config, objective, pretrained, mesh)
    progress = Progress(step=0, next_batch=0, seed=config.train.seed)
    if run is not None and (newest := checkpoint.step_to_resume(run.folder)) is not None:
        state, progress = restore_state(state, run.folder / "checkpoints" / str(newest))
        loader.set_state(progress.next_batch)
    step, key = compiled_step(config, objective, mesh, state), jax.random.key(config.train.seed)

    def advance(state: TrainState, batch: AnyExample) -> tuple[TrainState, dict[str, Array]]:
        return step(state, frozen, on_mesh(batch, mesh), key)

    run_folder.write_pretraining(out, config, base, part, with_earlier(data.describe(), run.data if run else {}))
    for name in LOGS:
        drop_after(out / name, progress.step)
    measures = HeldOutMeasures(objective, config, *held_out, frozen, partial(on_mesh, mesh=mesh), out)
    trackers = open_trackers(out, config, progress.step) if jax.process_index() == 0 else []
    log = MetricsLog(out / "metrics.jsonl", config.train.batch_size, 0.0, trackers)
    return run_steps(config, out, loader, state, progress, advance, log, measures if held_out[1] else None)


def open_loader(config: Config, objective: Objective, data: TrainingData, tokenise: Tokenise) -> Loader:
    """Returns the loader of this process's rows of every global batch, from the first step on."""
    rows, corrupt = data.rows(objective, config, tokenise)
    return Loader(
        rows,
        config.train.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.train.loader_threads,
        corrupt=corrupt,
    )


def load_state(config: Config, objective: Objective, pretrained: Pretrained, mesh: Mesh) -> tuple[TrainState, Params]:
    """Returns the state before the first step and the parameters that are not trained, on every device.

    A judge or a tower, which is no part of a base, starts from random weights by the seed of training.
    """

    def read(paths: tuple[str, ...]) -> Params:
        found: Params = {}
        for path in paths:
            part, *below = path.split("/")
            places = jax.tree.map(lambda _: replicate(mesh), shapes_below(path, config))
            if part not in PARTS:
                start = functional.init(part_factory(part, config), jax.random.key(config.train.seed))
                found |= flatten(nested(path, jax.device_put(start, places)))
                continue
            found |= flatten(nested(path, pretrained.params(part, places, tuple(below))))
        return unflatten(found)

    trainable, rest = select(read(objective.trains), objective.trainable)
    start = partial(init_state, optimizer=make_optimizer(config.train, RULES))
    shardings = state_shardings(jax.eval_shape(start, trainable), mesh, RULES)
    return jax.jit(start, out_shardings=shardings)(trainable), merge(rest, read(objective.reads))


def make_objective_step(objective: Objective, config: Config, mesh: Mesh | None = None) -> ObjectiveStep:
    """Returns a step (state, frozen, batch, key) -> (state, metrics) for `jax.jit` with donated state.

    `key` stays the same for the whole run: each step folds in its number and gives every row a key of its own. Metrics
    are those of the objective's loss and of `step.make_update`.
    """
    update = make_update(config.train, RULES)

    def step(
        state: TrainState, frozen: Params, batch: Batch, key: Key[Array, ""]
    ) -> tuple[TrainState, dict[str, Array]]:
        def loss(params: Params, batch: Batch, keys: Keys) -> tuple[Array, dict[str, Array]]:
            return objective.loss(merge(params, frozen), batch, keys)

        rows = jax.random.split(jax.random.fold_in(key, state.step), config.train.batch_size)
        inputs = (dict(batch), jax.random.key_data(rows))
        gradients, metrics = accumulated(loss, state.params, inputs, config.train.accumulate, mesh)
        return update(state, gradients, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()})

    return step


def compiled_step(config: Config, objective: Objective, mesh: Mesh, state: TrainState) -> ObjectiveStep:
    """Returns the step, compiled at its first call for the shardings of `state` and for batches split over the mesh."""
    here, everywhere = jax.tree.map(lambda leaf: leaf.sharding, state), replicate(mesh)
    return jax.jit(
        make_objective_step(objective, config, mesh),
        donate_argnums=0,
        in_shardings=(here, everywhere, batch_sharding(mesh), everywhere),
        out_shardings=(here, everywhere),
    )
