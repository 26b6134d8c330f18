"""Five guided steps of our sampler with our joint model against the public baseline's tensors."""

from functools import partial

import jax
import numpy as np
import pytest

from con360av_jax.config.settings import AUDIO_SCHEDULE, VIDEO_SCHEDULE, Config, PerModality, SamplerConfig
from con360av_jax.diffusion.sampler import sample, trajectories
from con360av_jax.models.functional import apply
from tests.support.reference_weights import Reference, reference_model

SCHEDULES = PerModality(audio=AUDIO_SCHEDULE, video=VIDEO_SCHEDULE)


@pytest.fixture(scope="module")
def reference(tiny: Config) -> Reference:
    return reference_model(tiny)


@pytest.fixture(scope="module")
def config(reference: Reference) -> SamplerConfig:
    settings = reference.settings["sampler"]
    return SamplerConfig(
        steps=settings["steps"],
        timestep_gamma=settings["gamma"],
        text_guidance=PerModality(audio=settings["guidance_audio"], video=settings["guidance_video"]),
    )


def test_sampler_visits_the_timesteps_of_the_baseline(reference: Reference, config: SamplerConfig):
    for name, path in trajectories(SCHEDULES, config).items():
        np.testing.assert_array_equal(path.timesteps, reference.outputs[f"sampler/timesteps_{name}"])


def test_sampler_ends_at_the_latents_of_the_baseline(reference: Reference, config: SamplerConfig):
    def run(params, noise, text, negative_text):
        denoise = partial(apply, reference.graphdef, params)
        return sample(denoise, noise, text, negative_text, None, SCHEDULES, config)

    found = jax.jit(run)(reference.params, reference.latents, reference.text, reference.negative_text)
    for name, latent in found.items():
        wanted = reference.outputs[f"sampler/{name}_latent"]
        assert np.linalg.norm(np.asarray(latent) - wanted) <= 1e-3 * np.linalg.norm(wanted), name
