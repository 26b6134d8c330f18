"""Pretraining of the motion modules of the video U-Net on clips; all else is frozen (objectives/denoising.py).

The modules start as the identity, so that the first step sees the image model. Source: Guo et al. 2024, section 4.2.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array

from con360av_jax.base.networks import frame_moments, vae_functions
from con360av_jax.config.settings import Config
from con360av_jax.models.functional import Params
from con360av_jax.train.objectives.autoencoder import shown_frames
from con360av_jax.train.objectives.denoising import UNITS, UNetObjective, paths, summarise
from con360av_jax.train.objectives.objective import Batch, Objective

VAE = "vae_video"
# A clip is used twice, with other noise and captions.
EXAMPLES_PER_SCENE = 2


def objective(config: Config) -> Objective:
    """Returns the objective."""
    encode, decode = vae_functions(VAE, config.model, jnp.dtype(config.train.compute_dtype))
    factor = config.model.vae.video.scaling_factor

    def moments(params: Params, batch: Batch) -> tuple[Array, Array]:
        # Frame after frame: memory is that of one frame per clip.
        by_frame = jax.lax.map(
            lambda frames: frame_moments(encode, params[VAE], frames, factor), jnp.moveaxis(batch["video"], 1, 0)
        )
        mean, std = (jnp.moveaxis(moment, 0, 1) for moment in by_frame)
        return mean, std

    unet = UNetObjective(config, "video", moments)

    def sample(params: Params, batch: Batch) -> dict[str, Array]:
        latents = jnp.moveaxis(unet.generate(params, batch), 1, 0)
        made = jnp.moveaxis(jax.lax.map(lambda latent: decode(params[VAE], latent), latents), 0, 1)
        strip = "batch frame height width channel -> batch height (frame width) channel"
        return {
            "input_frames": rearrange(batch["video"], strip),
            "output_frames": rearrange(shown_frames(made), strip),
        }

    trains, reads = paths("video", train_text=False)
    return Objective(
        part="motion",
        trains=trains,
        trainable=r".*/motion_modules/.*",
        reads=reads,
        fields=("video",),
        scenes="videos",
        text="video",
        example=clip,
        examples_per_scene=EXAMPLES_PER_SCENE,
        whole=clip,
        loss=unet.loss,
        measure=unet.measure,
        sample=sample,
        summarise=summarise,
        units=UNITS,
    )


def clip(arrays: Mapping[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns all frames of `arrays["video"]` (frame height width 3)."""
    return {"video": arrays["video"]}
