"""Pretraining of the video U-Net on stills, as an image model without its motion modules (objectives/denoising.py).

Its text encoder is trained with it unless `pretrain.unet_video.train_text` is off. A caption of a still of a scene is
that of the whole scene for a share `pretrain.scene_captions`, and that of the view for the others.
"""

import jax.numpy as jnp
from jaxtyping import Array

from con360av_jax.base.networks import frame_moments, vae_functions
from con360av_jax.config.settings import Config
from con360av_jax.models.functional import Params
from con360av_jax.train.objectives.autoencoder import shown_frames
from con360av_jax.train.objectives.denoising import UNITS, UNetObjective, paths, summarise
from con360av_jax.train.objectives.objective import Batch, Objective
from con360av_jax.train.objectives.vae_video import frame

VAE = "vae_video"
# A still is used four times, with other noise and captions: rendering it takes half as long as a step on it.
EXAMPLES_PER_SCENE = 4


def objective(config: Config) -> Objective:
    """Returns the objective."""
    encode, decode = vae_functions(VAE, config.model, jnp.dtype(config.train.compute_dtype))
    factor = config.model.vae.video.scaling_factor

    def moments(params: Params, batch: Batch) -> tuple[Array, Array]:
        mean, std = frame_moments(encode, params[VAE], batch["frames"], factor)
        return mean[:, None], std[:, None]

    unet = UNetObjective(config, "video", moments, motion=False)

    def sample(params: Params, batch: Batch) -> dict[str, Array]:
        made = decode(params[VAE], unet.generate(params, batch)[:, 0])
        return {"input_frames": batch["frames"], "output_frames": shown_frames(made)}

    trains, reads = paths("video", config.pretrain.unet_video.train_text)
    return Objective(
        part="unet_video",
        trains=trains,
        trainable=r"(?!.*/motion_modules/).*",
        reads=reads,
        fields=("video",),
        scenes="stills",
        text="video",
        example=frame,
        examples_per_scene=EXAMPLES_PER_SCENE,
        whole=frame,
        loss=unet.loss,
        measure=unet.measure,
        sample=sample,
        summarise=summarise,
        units=UNITS,
    )
