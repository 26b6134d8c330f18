"""Pretraining of the VAE of log-mels on excerpts (train/objectives/autoencoder.py), all values weighted alike.

(6) mel L1          mean absolute difference of the log-mels of whole held-out clips, without noise in the latent, nats
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from con360av_jax.base.networks import vae_functions
from con360av_jax.config.networks import require
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import mel_frames
from con360av_jax.models.functional import Params
from con360av_jax.train.objectives.autoencoder import latent_std, latent_sums, vae_loss
from con360av_jax.train.objectives.objective import AUDIO_EXCERPTS, Batch, Keys, Objective, Sums, window

PART = "vae_audio"
UNITS = {"mel_l1": "nats", "latent_std": ""}


def objective(config: Config) -> Objective:
    """Returns the objective; raises ConfigError if the excerpts do not fit the clips or the VAE."""
    settings, factor = config.pretrain.vae_audio, config.model.vae.audio.factor
    require(
        settings.frames <= mel_frames(config) and settings.frames % factor == 0,
        f"pretrain.vae_audio.frames={settings.frames} must be at most a clip's {mel_frames(config)} and a multiple of "
        f"the VAE's factor {factor}",
    )
    encode, decode = vae_functions(PART, config.model, jnp.dtype(config.train.compute_dtype))

    def example(arrays: Mapping[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
        return {"mel": arrays["mel"][window(len(arrays["mel"]), settings.frames, random)]}

    def whole(arrays: Mapping[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
        return {"mel": arrays["mel"]}

    def loss(params: Params, batch: Batch, keys: Keys) -> tuple[Array, dict[str, Array]]:
        x = batch["mel"][..., None]
        weight = jnp.ones_like(batch["mel"])
        return vae_loss(encode, decode, params[PART], x, weight, keys, settings.gradient_weight, settings.kl_weight)

    def measure(params: Params, batch: Batch) -> tuple[Sums, dict[str, Array]]:
        mean, std = encode(params[PART], batch["mel"][..., None])
        made = decode(params[PART], mean)[..., 0]
        error = jnp.sum(jnp.abs(batch["mel"] - made))
        sums = {"error": error, "values": jnp.float32(made.size), **latent_sums(mean, std)}
        return sums, {"input_mel": batch["mel"], "output_mel": made}

    return Objective(
        part=PART, trains=(PART,), fields=("mel",), scenes="audio", example=example, examples_per_scene=AUDIO_EXCERPTS,
        whole=whole, loss=loss, measure=measure, summarise=summarise, units=UNITS,
    )  # fmt: skip


def summarise(sums: Mapping[str, float]) -> dict[str, float]:
    """Returns mel L1 (6), also as "loss", and the standard deviation of the latent."""
    spread = latent_std(sums["latent_sum"], sums["latent_squares"], sums["latent_values"])
    error = sums["error"] / sums["values"]
    return {"loss": error, "mel_l1": error, "latent_std": spread}
