"""Multistep solvers against those of diffusers, and against a flow that is known exactly."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from con360av_jax.config.settings import AUDIO_SCHEDULE, VIDEO_SCHEDULE, PerModality, SamplerConfig
from con360av_jax.denoiser import DenoiserInputs
from con360av_jax.diffusion import schedule
from con360av_jax.diffusion.sampler import trajectories
from tests.support.known_denoisers import (
    MEAN,
    NEGATIVE,
    NOISE,
    ONE,
    SCHEDULES,
    SHAPES,
    SPREAD,
    TEXT,
    everything,
    normal_data,
    run,
    sampled,
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("steps", [1, 5, 16])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc"])
def test_multistep_solvers_equal_those_of_diffusers(solver: Any, steps: int, final: bool):
    """Each on the adjusted timesteps of its modality; the clean estimates stay a feedback for the model."""
    ends = [replace(settings, set_alpha_to_one=final) for settings in (AUDIO_SCHEDULE, VIDEO_SCHEDULE)]
    schedules = PerModality(audio=ends[0], video=ends[1])
    config = SamplerConfig(steps=steps, solver=solver, text_guidance=ONE)
    found = jax.jit(lambda noise: sampled(everything, noise, TEXT, NEGATIVE, None, schedules, config))(NOISE)
    paths = trajectories(schedules, config)
    references = {name: _reference(solver, path) for name, path in paths.items()}
    x, clean = dict(NOISE), {name: np.zeros_like(value) for name, value in NOISE.items()}
    model = jax.jit(everything)
    for step in range(steps):
        t: Any = {name: np.full((2,), path.timesteps[step], np.int32) for name, path in paths.items()}
        inputs = DenoiserInputs(
            latents=x, timesteps=t, text=TEXT, clean_estimates=clean, connector_timesteps=t, connector_latents=x
        )
        made = {name: np.asarray(eps) for name, eps in model(inputs).items()}
        for name, path in paths.items():
            a = path.alpha_bar[step]
            clean[name] = (x[name] - np.sqrt(1 - a) * made[name]) / np.sqrt(a)
            moment, both = int(path.timesteps[step]), (torch.tensor(made[name]), torch.tensor(x[name]))
            x[name] = references[name].step(both[0], moment, both[1]).prev_sample.numpy()
    for name in SHAPES:
        np.testing.assert_allclose(found[name], x[name], rtol=1e-3, atol=1e-4 * np.abs(x[name]).max())


def _reference(solver: str, path: schedule.Trajectory) -> Any:
    """diffusers' scheduler on the timesteps and noise levels of `path`."""
    kind = {"dpmpp_2m": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}[solver]
    a = np.append(path.alpha_bar, path.previous_alpha_bar[-1]).astype(np.float64)
    scheduler = kind(solver_order=2, final_sigmas_type="zero" if a[-1] == 1 else "sigma_min")
    scheduler.set_timesteps(len(path.timesteps))
    scheduler.timesteps, scheduler.sigmas = (
        torch.tensor(path.timesteps.astype(np.int64)),
        torch.tensor(np.sqrt((1 - a) / a)),
    )
    scheduler.set_begin_index(0)
    return scheduler


@pytest.mark.parametrize(
    ("solver", "least", "most"), [("ddim", 0.45, 0.55), ("dpmpp_2m", 0.2, 0.3), ("unipc", 0.1, 0.3)]
)
def test_twice_the_steps_halve_the_error_of_ddim_and_quarter_that_of_multistep_solvers(
    solver: Any, least: float, most: float
):
    """The flow of normal data keeps the distance from sqrt(a) mean in units of the standard deviation of x_t."""

    def error(steps: int) -> float:
        config = SamplerConfig(steps=steps, solver=solver, text_guidance=ONE)
        path = trajectories(SCHEDULES, config)["video"]
        ends = np.array([path.alpha_bar[0], path.previous_alpha_bar[-1]], np.float64)
        begin, end = np.sqrt(ends) * MEAN["video"]
        spread = np.sqrt(ends * SPREAD["video"] ** 2 + 1 - ends)
        flow = end + (NOISE["video"] - begin) * spread[1] / spread[0]
        return float(np.abs(run(normal_data, config)["video"] - flow).mean())

    # Audio's published spacing leaves a long last step of first order, whose error hides the others.
    assert least < error(80) / error(40) < most
