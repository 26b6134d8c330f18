"""Denoisers that are known exactly, for samplers: normal data, and an affine model in which every input counts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from con360av_jax.config.settings import AUDIO_SCHEDULE, VIDEO_SCHEDULE, PerModality, SamplerConfig
from con360av_jax.denoiser import Denoise, DenoiserInputs, Latents
from con360av_jax.diffusion import sampler, schedule
from con360av_jax.diffusion.process import draw_noise
from tests.support.passes import one_after_the_other

SCHEDULES = PerModality(audio=AUDIO_SCHEDULE, video=VIDEO_SCHEDULE)
ONE = PerModality(audio=1.0, video=1.0)
SHAPES = {"audio": (2, 3, 2, 2), "video": (2, 2, 3, 3, 1)}
NOISE = jax.tree.map(np.asarray, draw_noise(jax.random.key(0), SHAPES))
TEXT = {"audio": jnp.full((2, 3), 0.5), "video": jnp.full((2, 4, 3), -0.5)}
NEGATIVE = jax.tree.map(jnp.zeros_like, TEXT)
MAPS = jnp.linspace(0.0, 1.0, 2 * 2 * 2 * 4 * 2, dtype=jnp.float32).reshape(2, 2, 2, 4, 2)

# Data that is normal with this mean and standard deviation in every coordinate.
MEAN = {"audio": 0.7, "video": -1.2}
SPREAD = {"audio": 0.4, "video": 0.9}
ALPHA_BAR = {
    name: np.cumprod(1 - schedule.betas(settings))
    for name, settings in (("audio", AUDIO_SCHEDULE), ("video", VIDEO_SCHEDULE))
}


def normal_data(inputs: DenoiserInputs) -> Latents:
    """E[eps | x_t] = sqrt(1 - a) (x_t - sqrt(a) mean) / (a spread^2 + 1 - a)."""

    def one(name: str) -> jax.Array:
        x_t = inputs.latents[name]
        a = jnp.asarray(ALPHA_BAR[name], jnp.float32)[inputs.timesteps[name]]
        a = jnp.expand_dims(a, tuple(range(1, x_t.ndim)))
        centred = x_t - jnp.sqrt(a) * MEAN[name]
        return jnp.sqrt(1 - a) * centred / (a * SPREAD[name] ** 2 + 1 - a)

    return {name: one(name) for name in inputs.latents}


def everything(inputs: Any) -> Latents:
    """An affine model in which every input counts, also the other modality's clean estimate."""

    text, clean = inputs.text, inputs.clean_estimates

    def one(name: str, other: str) -> jax.Array:
        x_t, steps = inputs.latents[name], inputs.timesteps[name] - inputs.connector_timesteps[name] // 2
        rows = text[name].mean(axis=tuple(range(1, text[name].ndim))) + 1e-3 * steps.astype(jnp.float32)
        rows = rows + clean[other].mean(axis=tuple(range(1, clean[other].ndim)))
        if inputs.maps is not None:
            rows = rows + inputs.maps.mean(axis=(1, 2, 3, 4)) * inputs.map_mask.astype(jnp.float32)
        wide = jnp.expand_dims(rows, tuple(range(1, x_t.ndim)))
        return 0.9 * x_t + 0.05 * inputs.connector_latents[name] + 0.02 * clean[name] + 0.1 * wide

    return {"audio": one("audio", "video"), "video": one("video", "audio")}


def sampled(denoise: Denoise, *args: Any) -> Latents:
    return sampler.sample(one_after_the_other(denoise), *args)


def run(denoise, config: SamplerConfig, maps: jax.Array | None = None):
    compute = jax.jit(lambda noise: sampled(denoise, noise, TEXT, NEGATIVE, maps, SCHEDULES, config))
    return jax.tree.map(np.asarray, compute(NOISE))
