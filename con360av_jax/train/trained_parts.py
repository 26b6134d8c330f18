"""Trained parts of runs of `con360av pretrain`, for a base: their moving average, scaling factor and origin."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from con360av_jax.base.parts import PARTS, nested, shapes_below
from con360av_jax.config.files import changes, to_dict
from con360av_jax.config.pretraining import JUDGES, Part
from con360av_jax.config.settings import Config, PerModality
from con360av_jax.data.transforms import collate
from con360av_jax.errors import CheckpointError, some
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.train import checkpoint, run_folder
from con360av_jax.train.checkpoint import locate
from con360av_jax.train.objectives.choose import make_objective
from con360av_jax.train.objectives.objective import Objective
from con360av_jax.train.optimizer import select
from con360av_jax.train.pretraining_data import TrainingData, recorded_data

ITEMS = ("ema", "progress")
SETTINGS = {
    "vae_audio": "model.vae.audio",
    "vae_video": "model.vae.video",
    "vocoder": "model.vocoder",
    "text_audio": "model.text.audio",
    "text_video": "model.text.video",
    "joint/unet/audio": "model.unet_audio",
    "joint/unet/video": "model.unet_video",
}
"""Path of a trained network in a base -> its settings."""
FACTOR_BATCHES = 32
"""Batches of training examples that a scaling factor is measured on."""


@dataclass(frozen=True, kw_only=True)
class TrainedPart:
    """Contribution of a run of pretraining to a base."""

    params: Params
    """Parameters of the base that the run trained, nested below the names of their parts."""
    scaling_factors: Mapping[str, float]
    """Modality -> scaling factor of its VAE, where the run trained one."""
    origin: Mapping[str, object]
    """Run, checkpoint, commit, seed and data, as a base's report keeps them."""


def open_trained(path: Path, config: Config) -> TrainedPart:
    """Reads RUN, whose newest intact checkpoint counts, or RUN/checkpoints/STEP.

    A scaling factor is measured as 1 / the standard deviation of all latents of the first training examples.

    Raises:
        CheckpointError: there is no such run or checkpoint, it is corrupt, or mel, the trained networks or, for a
            U-Net, the noise schedules are not those of `config`; other networks may differ.
        DatasetError: the data that a scaling factor is measured on are gone.
    """
    folder, step_folder = locate(path, ITEMS)
    run = run_folder.open_pretraining(folder)
    objective = make_objective(run.part, run.config)
    _require_same_part(objective, config, run)
    here = SingleDeviceSharding(jax.local_devices()[0])

    shapes: Params = {}
    for name in objective.trains:
        shapes |= flatten(nested(name, shapes_below(name, run.config)))
    trained, _ = select(unflatten(shapes), objective.trainable)
    wanted = jax.tree.map(partial(_placed, sharding=here), trained)
    ema = checkpoint.read_arrays(step_folder, {"ema": wanted})["ema"]
    progress = checkpoint.read_progress(step_folder)
    found = recorded_data(run.data)
    modality = run.part.removeprefix("vae_")
    factors = {modality: scaling_factor(run.config, run.part, ema, found)} if modality != run.part else {}
    origin = {
        "part": run.part,
        "run": str(folder.resolve()),
        "step": progress.step,
        "batch_size": run.config.train.batch_size,
        "seed": progress.seed,
        "data": dict(run.data),
        "commit": run.commit,
        **{f"scaling_factor_{name}": factor for name, factor in factors.items()},
    }
    # The towers that text encoders are trained with are no part of a base.
    ema = {name: params for name, params in ema.items() if name in (*PARTS, *JUDGES)}
    return TrainedPart(params=ema, scaling_factors=factors, origin=origin)


def scaling_factor(config: Config, part: Part, params: Params, data: TrainingData) -> float:
    """Returns 1 / the standard deviation of the latents of the first FACTOR_BATCHES batches of whole examples."""
    objective = make_objective(part, config)
    rows, _ = data.rows(replace(objective, example=objective.whole, examples_per_scene=1), config)
    measure, size = jax.jit(objective.measure), config.train.batch_size
    totals: dict[str, float] = {}
    for first in range(0, FACTOR_BATCHES * size, size):
        batch = collate([rows(number) for number in range(first, first + size)])
        sums, _ = measure(params, {**batch, "sample_id": batch["sample_id"].astype(np.int32)})
        for name, value in jax.device_get(sums).items():
            totals[name] = totals.get(name, 0.0) + float(value)
    return 1 / objective.summarise(totals)["latent_std"]


def with_factors(config: Config, factors: Mapping[str, float]) -> Config:
    """Returns `config` with measured scaling factors of its VAEs."""
    vaes = {
        name: replace(vae, scaling_factor=factors.get(name, vae.scaling_factor))
        for name, vae in vars(config.model.vae).items()
    }
    return replace(config, model=replace(config.model, vae=PerModality(**vaes)))


def _require_same_part(objective: Objective, config: Config, run: run_folder.PretrainingRun) -> None:
    """Raises CheckpointError unless the parts of a base that `run` trained are those of `config`."""
    needed = ("mel.", *(f"{SETTINGS[name]}." for name in objective.trains if name in SETTINGS))
    # Codecs and judges know no timesteps.
    if any(name.startswith("joint/") for name in objective.trains):
        needed = (*needed, "schedule.")
    found = changes(to_dict(run.config), to_dict(config))
    # Measured scaling factors are no settings of the run's own.
    different = [
        line for path, line in found.items() if path.startswith(needed) and not path.endswith(".scaling_factor")
    ]
    if different:
        raise CheckpointError(f"run {run.folder} belongs to another config: {some(different, '; ')}")


def _placed(leaf: jax.ShapeDtypeStruct, sharding: SingleDeviceSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
