"""Guided sampling of all modalities at once, as one scan that carries the latents and the last clean estimate.

With a = alpha_bar at the current timestep, a' at the next one visited, and eps the guided prediction, converted where
the model predicts the velocity:

    (1) x_0 = (x_t - sqrt(1 - a) eps) / sqrt(a)
    (2) x_t' = sqrt(a') x_0 + sqrt(1 - a') eps
    (3) a step is guided where  guidance_least <= sqrt((1 - a) / a) <= guidance_most

Sources: Song et al. 2021 (DDIM), eq. 12 with eta = 0, for (2), in whose place other solvers take their own
(multistep.py); Kynkäänniemi et al. 2024 (arXiv 2404.07724) for (3). x_0 is not clipped. The x_0 of one step is what the
environment encoders see in the next (Ishii et al. 2024); they see zeros in the first.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from con360av_jax.config.settings import NoiseSchedule, PerModality, SamplerConfig
from con360av_jax.denoiser import Denoise, Latents, Text, Timesteps
from con360av_jax.diffusion.guidance import CONDITIONED, Guided, guided, pass_weights
from con360av_jax.diffusion.multistep import Coefficients, History, advanced, coefficients
from con360av_jax.diffusion.process import add_noise, convert
from con360av_jax.diffusion.schedule import ADJUSTMENT_POWER, Trajectory, by_modality, predictions, trajectory

Carry: TypeAlias = tuple[Latents, Latents, dict[str, History]]
"""Latents, clean estimates of the step before, and what a multistep solver remembers."""


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
    `map_mask` False for a single row. `denoise` is called `config.steps` times for 1 to 4 predictions of
    every row, see `guidance`. Raises ConfigError if a schedule has no such steps.
    """
    config = config if maps is not None else without_map_guidance(config)
    every_step = {name: path for name, path in trajectories(schedules, config).items() if name in noise_latents}
    predict = _predictor(partial(guided, denoise, text, negative_text, maps, map_mask), config, every_step)
    solver, given = config.solver, predictions(schedules)
    tables = {} if solver == "ddim" else {name: coefficients(solver, path) for name, path in every_step.items()}

    def step(carry: Carry, now: tuple[dict[str, Trajectory], dict[str, Coefficients]]) -> tuple[Carry, None]:
        x_t, x_0, histories = carry
        here, factors = now
        a = {name: jnp.asarray(here[name].alpha_bar) for name in x_t}
        prediction = predict(x_t, here, x_0)
        x_0 = convert(given, "x0", prediction, x_t, a)
        if solver == "ddim":
            previous_a = {name: jnp.asarray(here[name].previous_alpha_bar) for name in x_t}
            return (add_noise(x_0, convert(given, "epsilon", prediction, x_t, a), previous_a), x_0, histories), None
        moved = {name: advanced(x, x_0[name], histories[name], factors[name]) for name, x in x_t.items()}
        x_t = {name: x for name, (x, _) in moved.items()}
        return (x_t, x_0, {name: history for name, (_, history) in moved.items()}), None

    x_t = jax.tree.map(lambda x: x.astype(jnp.float32), noise_latents)
    nothing = jax.tree.map(jnp.zeros_like, x_t)
    histories = {name: History(nothing[name], nothing[name], nothing[name]) for name in tables}
    (x_t, _, _), _ = jax.lax.scan(step, (x_t, nothing, histories), (every_step, tables))
    return x_t


def _predictor(
    make: Callable[..., Guided], config: SamplerConfig, every_step: Mapping[str, Trajectory]
) -> Callable[[Latents, Mapping[str, Trajectory], Latents], Latents]:
    """The prediction of a step as a function of latents, the step and the last clean estimates; `make` is `guided`.

    Steps in which equation (3) guides no modality compute a single prediction.
    """
    weights, names = pass_weights(config), tuple(every_step)
    least, most = config.guidance_least, math.inf if config.guidance_most is None else config.guidance_most

    def timesteps(x_t: Latents, here: Mapping[str, Trajectory]) -> Timesteps:
        return {name: jnp.full(x.shape[:1], here[name].timesteps) for name, x in x_t.items()}

    if (least, most) == (0, math.inf) or tuple(weights) == (CONDITIONED,):
        full = make(weights)
        return lambda x_t, here, x_0: full(x_t, timesteps(x_t, here), x_0, None)
    weights[CONDITIONED] = dict.fromkeys(names, 0.0) | weights.pop(CONDITIONED, {})
    full, single = make(weights), make({CONDITIONED: dict.fromkeys(names, 1.0)})

    def predict(x_t: Latents, here: Mapping[str, Trajectory], x_0: Latents) -> Latents:
        a = {name: jnp.asarray(here[name].alpha_bar) for name in names}
        levels = {name: jnp.sqrt((1 - a[name]) / a[name]) for name in names}
        is_guided = {name: (level >= least) & (level <= most) for name, level in levels.items()}
        inputs = x_t, timesteps(x_t, here), x_0, is_guided
        return jax.lax.cond(jnp.any(jnp.stack(list(is_guided.values()))), full, single, *inputs)

    return predict
