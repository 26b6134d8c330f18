"""Distributions of the timesteps of training."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy import stats

from con360av_jax.config.settings import TrainConfig
from con360av_jax.diffusion.timesteps import draw_timesteps
from con360av_jax.errors import ConfigError

TOTAL = 1000


def test_uniform_timesteps_are_all_alike_and_within_the_process():
    drawn = np.asarray(draw_timesteps(jax.random.key(0), (20_000,), TOTAL, TrainConfig()))
    assert drawn.dtype == np.int32 and drawn.min() >= 0 and drawn.max() < TOTAL
    assert stats.kstest((drawn + 0.5) / TOTAL, "uniform").pvalue > 1e-3


def test_logit_normal_timesteps_have_its_distribution():
    """The logit of a timestep's share is normal (Esser et al. 2024, equation 19)."""
    config = replace(TrainConfig(), timesteps="logit_normal", timestep_location=-0.5, timestep_scale=1.25)
    drawn = np.asarray(draw_timesteps(jax.random.key(1), (20_000,), TOTAL, config))
    share = (drawn + 0.5) / TOTAL
    assert stats.kstest(np.log(share / (1 - share)), "norm", args=(-0.5, 1.25)).pvalue > 1e-3


def test_no_timestep_lies_outside_the_process_where_the_sigmoid_rounds_to_one():
    config = replace(TrainConfig(), timesteps="logit_normal", timestep_location=40.0)
    drawn = np.asarray(draw_timesteps(jax.random.key(2), (100,), TOTAL, config))
    assert (drawn == TOTAL - 1).all()


def test_a_scale_that_is_not_positive_is_refused():
    with pytest.raises(ConfigError, match="timestep_scale=0"):
        replace(TrainConfig(), timestep_scale=0)
