"""Guided DDIM over all modalities at once, as one scan that carries the latents and the last clean estimate.

With a = alpha_bar at the current timestep, a' at the next one visited, and eps the guided prediction, converted where
the model predicts the velocity:

    (1) x_0 = (x_t - sqrt(1 - a) eps) / sqrt(a)
    (2) x_t' = sqrt(a') x_0 + sqrt(1 - a') eps

Source: Song et al. 2021 (DDIM), eq. 12 with eta = 0; x_0 is not clipped. The x_0 of one step is what the environment
encoders see in the next (Ishii et al. 2024); they see zeros in the first.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from con360av_jax.config.settings import NoiseSchedule, PerModality, SamplerConfig
from con360av_jax.denoiser import Denoise, Latents, Text
from con360av_jax.diffusion.guidance import guided, pass_weights
from con360av_jax.diffusion.process import add_noise, convert
from con360av_jax.diffusion.schedule import ADJUSTMENT_POWER, Trajectory, by_modality, predictions, trajectory


def trajectories(schedules: PerModality[NoiseSchedule], config: SamplerConfig) -> dict[str, Trajectory]:
    """Timesteps visited by each modality; the lengths are equal, the spacing differs."""
    return {
        name: trajectory(schedule, config.steps, exponent=config.timestep_gamma ** ADJUSTMENT_POWER[name])
        for name, schedule in by_modality(schedules).items()
    }


def without_map_guidance(config: SamplerConfig) -> SamplerConfig:
    """Settings that give the same samples where no row has maps, with the fewest passes."""
    one = PerModality(audio=1.0, video=1.0)
    return replace(config, map_guidance=one, saliency_guidance=PerModality(audio=None, video=None))


def sample(
    denoise: Denoise,
    noise_latents: Latents,
    text: Text,
    negative_text: Text,
    maps: Float[Array, "batch frame height width 2"] | None,
    schedules: PerModality[NoiseSchedule],
    config: SamplerConfig,
    map_mask: Bool[Array, "batch"] | None = None,
) -> Latents:
    """Latents of both modalities from `noise_latents` (standard normal), float32, of the same shapes.

    `text` and `negative_text` hold embeddings with a batch axis; `maps` None means no control, as does
    `map_mask` False for a single row. `denoise` is called `config.steps` times with 1 to 4 times the batch, see
    `guidance`. Raises ConfigError if a schedule has no such steps.
    """
    config = config if maps is not None else without_map_guidance(config)
    predict = guided(denoise, text, negative_text, maps, map_mask, pass_weights(config))

    given = predictions(schedules)

    def step(carry: tuple[Latents, Latents], now: dict[str, Trajectory]) -> tuple[tuple[Latents, Latents], None]:
        x_t, x_0 = carry
        t = {name: jnp.full(x.shape[:1], now[name].timesteps) for name, x in x_t.items()}
        a = {name: jnp.asarray(now[name].alpha_bar) for name in x_t}
        previous_a = {name: jnp.asarray(now[name].previous_alpha_bar) for name in x_t}
        prediction = predict(x_t, t, x_0)
        eps, x_0 = (convert(given, wanted, prediction, x_t, a) for wanted in ("epsilon", "x0"))
        return (add_noise(x_0, eps, previous_a), x_0), None

    x_t = jax.tree.map(lambda x: x.astype(jnp.float32), noise_latents)
    every_step = {name: path for name, path in trajectories(schedules, config).items() if name in x_t}
    (x_t, _), _ = jax.lax.scan(step, (x_t, jax.tree.map(jnp.zeros_like, x_t)), every_step)
    return x_t
