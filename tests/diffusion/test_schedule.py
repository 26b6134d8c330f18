"""Noise schedules and sampling steps against diffusers, and the adjustment of timesteps."""

from dataclasses import replace

import numpy as np
import pytest

from con360av_jax.config.settings import AUDIO_SCHEDULE, VIDEO_SCHEDULE, NoiseSchedule
from con360av_jax.diffusion import schedule
from con360av_jax.errors import ConfigError


@pytest.mark.parametrize("steps", [5, 25, 50])
@pytest.mark.parametrize("settings", [AUDIO_SCHEDULE, VIDEO_SCHEDULE, replace(AUDIO_SCHEDULE, spacing="trailing")])
def test_schedule_equals_diffusers(settings: NoiseSchedule, steps: int):
    ddim = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    original = ddim.DDIMScheduler(
        num_train_timesteps=settings.train_steps,
        beta_start=settings.beta_start,
        beta_end=settings.beta_end,
        beta_schedule=settings.kind,
        clip_sample=False,
        set_alpha_to_one=settings.set_alpha_to_one,
        steps_offset=settings.steps_offset,
        timestep_spacing=settings.spacing,
    )
    original.set_timesteps(steps)
    np.testing.assert_array_equal(schedule.sampling_timesteps(settings, steps), original.timesteps.numpy())
    np.testing.assert_allclose(schedule.alphas_cumprod(settings), original.alphas_cumprod.numpy(), rtol=2e-5)


def test_alpha_bar_is_rounded_once_from_float64():
    total = 1.0
    roots = (0.0015**0.5, 0.0195**0.5)
    for t in range(AUDIO_SCHEDULE.train_steps):
        total *= 1 - (roots[0] + (roots[1] - roots[0]) * t / 999) ** 2
    assert schedule.alphas_cumprod(AUDIO_SCHEDULE)[-1] == pytest.approx(total, rel=1e-7)


def test_min_snr_weights_are_one_at_noise_and_gamma_over_snr_near_data():
    for settings in (AUDIO_SCHEDULE, VIDEO_SCHEDULE):
        a = np.cumprod(1 - schedule.betas(settings))
        snr = a / (1 - a)
        weights = schedule.min_snr_weights(settings, 5.0)
        np.testing.assert_allclose(weights[snr <= 5], 1.0)
        np.testing.assert_allclose(weights[snr > 5], 5.0 / snr[snr > 5], rtol=1e-6)
        assert 0 < (snr > 5).sum() < len(snr)
    # The first video timestep has a = 1 - 0.00085.
    assert weights[0] == pytest.approx(5.0 * 0.00085 / 0.99915, rel=1e-6)


def test_min_snr_weights_of_velocity_weigh_clean_latents_as_those_of_noise_do():
    """The error of x_0 is that of eps times (1 - a) / a, and that of v times (1 - a)."""
    a = np.cumprod(1 - schedule.betas(VIDEO_SCHEDULE))
    noise = schedule.min_snr_weights(VIDEO_SCHEDULE, 5.0)
    velocity = schedule.min_snr_weights(replace(VIDEO_SCHEDULE, prediction="v"), 5.0)
    np.testing.assert_allclose(velocity / (1 - a), noise * a / (1 - a), rtol=1e-6)


def test_adjusted_timesteps_slow_down_at_opposite_ends():
    """Five steps with gamma 1.5 visit the timesteps that the public baseline's scheduler visits."""
    audio = schedule.trajectory(AUDIO_SCHEDULE, 5, exponent=1 / 1.5**0.5)
    video = schedule.trajectory(VIDEO_SCHEDULE, 5, exponent=1.5**0.5)
    assert audio.timesteps.tolist() == [834, 660, 474, 270, 4]
    assert video.timesteps.tolist() == [999, 702, 428, 183, 0]


def test_adjustment_with_exponent_one_changes_nothing():
    timesteps = np.arange(1000)
    np.testing.assert_array_equal(schedule.adjust_timesteps(timesteps, 1.0, 1000), timesteps)


def test_adjustment_stays_inside_the_schedule():
    assert schedule.adjust_timesteps(np.array([999]), 0.1, 1000).tolist() == [999]


@pytest.mark.parametrize("to_one", [True, False])
def test_each_step_ends_where_the_next_one_begins(to_one: bool):
    settings = replace(VIDEO_SCHEDULE, set_alpha_to_one=to_one)
    path = schedule.trajectory(settings, 7, exponent=1.3)
    np.testing.assert_array_equal(path.previous_alpha_bar[:-1], path.alpha_bar[1:])
    assert path.previous_alpha_bar[-1] == (1.0 if to_one else schedule.alphas_cumprod(settings)[0])
    assert path.timesteps.dtype == np.int32


@pytest.mark.parametrize("steps", [0, 1000, 1001])
def test_impossible_step_counts_are_refused(steps: int):
    with pytest.raises(ConfigError, match=str(steps)):
        schedule.sampling_timesteps(AUDIO_SCHEDULE, steps)
