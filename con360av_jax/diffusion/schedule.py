"""Noise schedules and the timesteps that a sampler visits.

With T training steps and t in 0 .. T - 1:

    (1) beta_t = b_0 + (b_1 - b_0) t / (T - 1)                                  linear
    (2) beta_t = (sqrt b_0 + (sqrt b_1 - sqrt b_0) t / (T - 1))^2               scaled linear
    (3) a_t    = prod_{s <= t} (1 - beta_s)                                     called alpha_bar in the code
    (4) t     <- round(T (t / T)^g),   g = sqrt(gamma) video, 1 / sqrt(gamma) audio

(1)-(3): Ho et al. 2020, with diffusers' two spacings of betas. (4): timestep adjustment of Ishii et al. 2024
(arXiv 2409.17550).
"""

from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from con360av_jax.config.settings import NoiseSchedule, PerModality, require
from con360av_jax.denoiser import Denoiser, DenoiserInputs, Latents
from con360av_jax.diffusion.process import Prediction, convert

T = TypeVar("T")

# Equation (4): g = gamma ** power. For gamma > 1 video spends more steps at small t, audio at large t.
ADJUSTMENT_POWER = {"audio": -0.5, "video": 0.5}


class Trajectory(NamedTuple):
    """Steps of one modality's sampler, from noise to data."""

    timesteps: Int[np.ndarray, "step"]
    """Timestep given to the model, int32."""
    alpha_bar: Float[np.ndarray, "step"]
    """a_t at that timestep."""
    previous_alpha_bar: Float[np.ndarray, "step"]
    """a_t at the next timestep visited (DDIM's "previous" one)."""


def by_modality(values: PerModality[T]) -> dict[str, T]:
    """A PerModality setting as a dict over modalities, like latents."""
    return {"audio": values.audio, "video": values.video}


def betas(schedule: NoiseSchedule) -> Float[np.ndarray, "train_step"]:
    """Equations (1) and (2) in float64."""
    if schedule.kind == "linear":
        return np.linspace(schedule.beta_start, schedule.beta_end, schedule.train_steps, dtype=np.float64)
    roots = np.linspace(schedule.beta_start**0.5, schedule.beta_end**0.5, schedule.train_steps, dtype=np.float64)
    return roots**2


def alphas_cumprod(schedule: NoiseSchedule) -> Float[np.ndarray, "train_step"]:
    """Equation (3), computed in float64 and rounded once to float32."""
    return np.cumprod(1.0 - betas(schedule)).astype(np.float32)


def min_snr_weights(schedule: NoiseSchedule, gamma: float) -> Float[np.ndarray, "train_step"]:
    """Weight of a prediction's squared error at each timestep, with SNR_t = a_t / (1 - a_t).

    It is min(SNR_t, gamma) / SNR_t for a model that predicts the noise, and min(SNR_t, gamma) / (SNR_t + 1) for one
    that predicts the velocity. Source: Hang et al. 2023 (arXiv 2303.09556), section 3.4.
    """
    a = np.cumprod(1.0 - betas(schedule))
    weights = np.minimum(1.0, gamma * (1.0 - a) / a)
    return (weights * a if schedule.prediction == "v" else weights).astype(np.float32)


def predictions(schedules: PerModality[NoiseSchedule]) -> dict[str, Prediction]:
    """Kind of prediction of each modality's U-Net."""
    return {name: schedule.prediction for name, schedule in by_modality(schedules).items()}


def noise_predictor(denoiser: Denoiser, schedules: PerModality[NoiseSchedule]) -> Denoiser:
    """The denoiser as one that predicts the noise, whatever it predicts itself."""

    def denoise(params: PyTree[Array], inputs: DenoiserInputs) -> Latents:
        made = denoiser(params, inputs)
        found = {name: schedule for name, schedule in by_modality(schedules).items() if name in made}
        a = {name: jnp.asarray(alphas_cumprod(schedule))[inputs.timesteps[name]] for name, schedule in found.items()}
        return convert(predictions(schedules), "epsilon", made, {name: inputs.latents[name] for name in found}, a)

    return denoise


def sampling_timesteps(schedule: NoiseSchedule, steps: int) -> Int[np.ndarray, "step"]:
    """Timesteps from noise to data, exactly those of diffusers' DDIMScheduler.

    Raises ConfigError if `steps` does not lie in 1 .. train_steps or the offset leads past the last training step.
    Source: Lin et al. 2023 (arXiv 2305.08891), table 2.
    """
    total = schedule.train_steps
    require(1 <= steps <= total, f"{steps} sampling steps requested, but 1 to {total} are possible")
    if schedule.spacing == "linspace":
        timesteps = np.linspace(0, total - 1, steps).round()[::-1].astype(np.int64)
    elif schedule.spacing == "leading":
        timesteps = np.arange(steps)[::-1] * (total // steps) + schedule.steps_offset
    else:
        timesteps = np.round(np.arange(total, 0, -total / steps)).astype(np.int64) - 1
    lowest, highest = int(timesteps.min()), int(timesteps.max())
    require(
        lowest >= 0 and highest < total,
        f"{steps} sampling steps with steps_offset={schedule.steps_offset} visit timesteps {lowest} to {highest}, "
        f"but the model knows 0 to {total - 1}: use fewer steps or steps_offset=0",
    )
    return timesteps.astype(np.int32)


def adjust_timesteps(timesteps: Int[np.ndarray, "step"], exponent: float, train_steps: int) -> Int[np.ndarray, "step"]:
    """Equation (4): round(T (t / T)^g) with `exponent` g and T = `train_steps`; half rounds to even."""
    require(exponent > 0, f"timestep adjustment needs a positive exponent, got {exponent}")
    adjusted = np.round((timesteps / train_steps) ** exponent * train_steps)
    return np.minimum(adjusted, train_steps - 1).astype(np.int32)


def trajectory(schedule: NoiseSchedule, steps: int, exponent: float = 1.0) -> Trajectory:
    """The adjusted timesteps of a sampler and the a_t before and after each of its steps.

    The step after the last one ends at a = 1 if `set_alpha_to_one`, else at a_0.
    """
    timesteps = adjust_timesteps(sampling_timesteps(schedule, steps), exponent, schedule.train_steps)
    alpha_bar = alphas_cumprod(schedule)
    final = np.float32(1.0) if schedule.set_alpha_to_one else alpha_bar[0]
    # The adjusted grid is uneven, so "previous" is the next timestep visited, not t - T / steps.
    previous = np.append(alpha_bar[timesteps[1:]], final)
    return Trajectory(timesteps=timesteps, alpha_bar=alpha_bar[timesteps], previous_alpha_bar=previous)
