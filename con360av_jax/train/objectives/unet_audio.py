"""Pretraining of the audio U-Net on the log-mels of whole clips (objectives/denoising.py).

Its text encoder is trained with it unless `pretrain.unet_audio.train_text` is off.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from con360av_jax.base.networks import mel_moments, vae_functions
from con360av_jax.config.settings import Config
from con360av_jax.models.functional import Params
from con360av_jax.train.objectives.denoising import UNITS, UNetObjective, paths, summarise
from con360av_jax.train.objectives.objective import Batch, Objective

VAE = "vae_audio"
# The audio of a scene is used four times, with other noise: making it takes three times as long as a step on it.
EXAMPLES_PER_SCENE = 4


def objective(config: Config) -> Objective:
    """Returns the objective."""
    encode, decode = vae_functions(VAE, config.model, jnp.dtype(config.train.compute_dtype))
    factor = config.model.vae.audio.scaling_factor

    def moments(params: Params, batch: Batch) -> tuple[Array, Array]:
        return mel_moments(encode, params[VAE], batch["mel"], factor)

    unet = UNetObjective(config, "audio", moments)

    def sample(params: Params, batch: Batch) -> dict[str, Array]:
        made = decode(params[VAE], unet.generate(params, batch))
        return {"input_mel": batch["mel"], "output_mel": made[..., 0]}

    trains, reads = paths("audio", config.pretrain.unet_audio.train_text)
    return Objective(
        part="unet_audio",
        trains=trains,
        reads=reads,
        fields=("mel",),
        scenes="audio",
        text="audio",
        example=mel,
        examples_per_scene=EXAMPLES_PER_SCENE,
        whole=mel,
        loss=unet.loss,
        measure=unet.measure,
        sample=sample,
        summarise=summarise,
        units=UNITS,
    )


def mel(arrays: Mapping[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns the log-mel `arrays["mel"]` (time mel)."""
    return {"mel": arrays["mel"]}
