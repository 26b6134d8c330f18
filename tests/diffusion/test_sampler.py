"""The sampler against a distribution whose noise is known exactly, a plain loop and its own computation graph."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.config.settings import AUDIO_SCHEDULE, VIDEO_SCHEDULE, PerModality, SamplerConfig
from con360av_jax.denoiser import DenoiserInputs, Latents
from con360av_jax.diffusion import schedule
from con360av_jax.diffusion.sampler import trajectories, without_map_guidance
from con360av_jax.errors import ConfigError
from tests.support.known_denoisers import (
    ALPHA_BAR,
    MAPS,
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


def test_ddim_of_normal_data_equals_its_closed_form():
    """Each step multiplies x_t - sqrt(a) mean by (sqrt(a' a) s^2 + sqrt((1 - a')(1 - a))) / (a s^2 + 1 - a)."""
    config = SamplerConfig(steps=10, text_guidance=ONE)
    found = run(normal_data, config)
    for name, settings in (("audio", AUDIO_SCHEDULE), ("video", VIDEO_SCHEDULE)):
        visited = schedule.trajectory(settings, 10, exponent=1.5 ** (0.5 if name == "video" else -0.5)).timesteps
        a = ALPHA_BAR[name][visited]
        after = np.append(a[1:], ALPHA_BAR[name][0])
        variance = SPREAD[name] ** 2
        factors = (np.sqrt(after * a) * variance + np.sqrt((1 - after) * (1 - a))) / (a * variance + 1 - a)
        wanted = np.sqrt(after[-1]) * MEAN[name] + np.prod(factors) * (NOISE[name] - np.sqrt(a[0]) * MEAN[name])
        np.testing.assert_allclose(found[name], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kinds", [("v", "v"), ("epsilon", "v")])
def test_predicted_velocity_gives_the_samples_of_predicted_noise(kinds: tuple[Any, Any]):
    """A model of v, sqrt(a) eps - sqrt(1 - a) x_0 with x_0 from its noise, gives the samples of that noise."""
    audio, video = kinds
    settings = {
        "audio": replace(AUDIO_SCHEDULE, prediction=audio),
        "video": replace(VIDEO_SCHEDULE, prediction=video),
    }

    def velocity(inputs: DenoiserInputs) -> Latents:
        made = normal_data(inputs)
        for name, eps in made.items():
            if settings[name].prediction == "v":
                x_t = inputs.latents[name]
                a = jnp.asarray(ALPHA_BAR[name], jnp.float32)[inputs.timesteps[name]]
                a = jnp.expand_dims(a, tuple(range(1, x_t.ndim)))
                x_0 = (x_t - jnp.sqrt(1 - a) * eps) / jnp.sqrt(a)
                made[name] = jnp.sqrt(a) * eps - jnp.sqrt(1 - a) * x_0
        return made

    config = SamplerConfig(steps=10, text_guidance=PerModality(audio=2.0, video=3.0))
    schedules = PerModality(audio=settings["audio"], video=settings["video"])
    found = jax.jit(lambda noise: sampled(velocity, noise, TEXT, NEGATIVE, None, schedules, config))(NOISE)
    wanted = run(normal_data, config)
    for name in SHAPES:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-3, atol=1e-3)


def test_many_steps_turn_noise_into_the_data_distribution():
    """The flow of normal data maps noise z to mean + spread z, but for the noise that is left at both ends."""
    found = run(normal_data, SamplerConfig(steps=500, text_guidance=ONE))
    for name in SHAPES:
        np.testing.assert_allclose(found[name], MEAN[name] + SPREAD[name] * NOISE[name], atol=0.1)


def _loop(config: SamplerConfig, maps) -> dict[str, np.ndarray]:
    """Guided DDIM once more as a plain loop with one call of the model per prediction."""
    x, clean = dict(NOISE), {name: np.zeros_like(value) for name, value in NOISE.items()}
    model = jax.jit(everything)
    for step in range(config.steps):
        now = {name: path.timesteps[step] for name, path in trajectories(SCHEDULES, config).items()}
        t = {name: np.full((2,), value, np.int32) for name, value in now.items()}
        mask = {on: None if maps is None else jnp.full((2,), on) for on in (True, False)}
        common: Any = {"latents": x, "timesteps": t, "clean_estimates": clean, "maps": maps}
        common |= {"connector_timesteps": t, "connector_latents": x}
        e_00 = model(DenoiserInputs(text=NEGATIVE, map_mask=mask[False], **common))
        e_0m = model(DenoiserInputs(text=NEGATIVE, map_mask=mask[True], **common))
        e_tm = model(DenoiserInputs(text=TEXT, map_mask=mask[True], **common))
        new = {}
        for name in x:
            g_map, g_text = getattr(config.map_guidance, name), getattr(config.text_guidance, name)
            zero, control, full = (np.asarray(e[name], np.float64) for e in (e_00, e_0m, e_tm))
            a = ALPHA_BAR[name][now[name]]
            level, most = np.sqrt((1 - a) / a), config.guidance_most
            if level < config.guidance_least or (most is not None and level > most):
                g_map = g_text = 1.0
            eps = zero + g_map * (control - zero) + g_text * (full - control)
            last = step + 1 == config.steps
            after = ALPHA_BAR[name][0 if last else trajectories(SCHEDULES, config)[name].timesteps[step + 1]]
            clean[name] = ((x[name] - np.sqrt(1 - a) * eps) / np.sqrt(a)).astype(np.float32)
            new[name] = (np.sqrt(after) * clean[name] + np.sqrt(1 - after) * eps).astype(np.float32)
        x = new
    return x


@pytest.mark.parametrize("with_maps", [False, True])
def test_scan_equals_a_python_loop(with_maps: bool):
    config = SamplerConfig(
        steps=4,
        text_guidance=PerModality(audio=2.5, video=7.5),
        map_guidance=PerModality(audio=1.0, video=2.0),
    )
    maps = MAPS if with_maps else None
    found, wanted = run(everything, config, maps), _loop(config, maps)
    for name in SHAPES:
        np.testing.assert_allclose(found[name], wanted[name], rtol=2e-3, atol=2e-3 * np.abs(wanted[name]).max())


def test_rows_without_control_are_those_of_a_sampler_that_knows_no_maps():
    """Also where maps are guided: one batch may hold rows with and without control."""
    config = SamplerConfig(steps=3, map_guidance=PerModality(audio=3.0, video=2.0))

    def masked(mask: list[bool], settings: SamplerConfig = config) -> dict[str, np.ndarray]:
        def masked_run(noise: Latents, mask: jax.Array) -> Latents:
            return sampled(everything, noise, TEXT, NEGATIVE, MAPS, SCHEDULES, settings, mask)

        return jax.tree.map(np.asarray, jax.jit(masked_run)(NOISE, jnp.array(mask)))

    none = run(everything, config)
    both, mixed = masked([True, True]), masked([True, False])
    fewest = masked([False, False], without_map_guidance(config))
    for name, wanted in none.items():
        scale = np.abs(wanted).max()
        np.testing.assert_array_equal(mixed[name][0], both[name][0])
        np.testing.assert_allclose(mixed[name][1], wanted[1], atol=1e-5 * scale)
        np.testing.assert_allclose(fewest[name], wanted, atol=1e-5 * scale)
        assert np.abs(both[name][1] - wanted[1]).max() > 1e-3 * scale


def test_environment_encoders_see_zeros_first_and_then_the_last_clean_estimate():
    """A model that predicts only what it is fed back: eps is 0 at first, so x_0 = x_T / sqrt(a), which is eps next."""

    config = SamplerConfig(steps=2, text_guidance=ONE)
    found = run(lambda inputs: inputs.clean_estimates, config)
    for name, path in trajectories(SCHEDULES, config).items():
        first, second = path.alpha_bar.astype(np.float64)
        clean = NOISE[name] / np.sqrt(first)
        x = np.sqrt(second) * clean
        estimate = (x - np.sqrt(1 - second) * clean) / np.sqrt(second)
        after = float(path.previous_alpha_bar[-1])
        wanted = np.sqrt(after) * estimate + np.sqrt(1 - after) * clean
        np.testing.assert_allclose(found[name], wanted, rtol=1e-3, atol=1e-3)


def test_sampler_is_one_scan_that_stacks_nothing():
    config = SamplerConfig(steps=6)
    jaxpr = jax.make_jaxpr(lambda noise: sampled(everything, noise, TEXT, NEGATIVE, MAPS, SCHEDULES, config))(NOISE)
    scans = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    assert len(scans) == 1
    carried = [variable.aval.shape for variable in scans[0].outvars]
    assert scans[0].params["num_carry"] == len(carried)
    assert sorted(carried) == sorted([*SHAPES.values()] * 2)


def test_samples_do_not_depend_on_the_rest_of_the_batch():
    config = SamplerConfig(steps=3)
    both = run(everything, config, MAPS)
    first = jax.tree.map(lambda x: x[:1], (NOISE, TEXT, NEGATIVE, MAPS))
    alone = jax.jit(lambda n, t, u, m: sampled(everything, n, t, u, m, SCHEDULES, config))(*first)
    for name in SHAPES:
        np.testing.assert_allclose(alone[name][0], both[name][0], rtol=1e-4, atol=1e-4)


def test_timestep_adjustment_of_one_keeps_the_plain_timesteps():
    paths = trajectories(SCHEDULES, SamplerConfig(steps=5, timestep_gamma=1.0))
    for name, settings in (("audio", AUDIO_SCHEDULE), ("video", VIDEO_SCHEDULE)):
        np.testing.assert_array_equal(paths[name].timesteps, schedule.sampling_timesteps(settings, 5))


def test_a_final_alpha_of_one_leaves_no_noise():
    clear = PerModality(
        audio=replace(AUDIO_SCHEDULE, set_alpha_to_one=True), video=replace(VIDEO_SCHEDULE, set_alpha_to_one=True)
    )
    config = SamplerConfig(steps=1, text_guidance=ONE)
    found = jax.jit(lambda noise: sampled(normal_data, noise, TEXT, NEGATIVE, None, clear, config))(NOISE)
    for name, path in trajectories(clear, config).items():
        a, variance = float(path.alpha_bar[0]), SPREAD[name] ** 2
        expected = MEAN[name] + np.sqrt(a) * variance / (a * variance + 1 - a) * (NOISE[name] - np.sqrt(a) * MEAN[name])
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("least", "most"), [(0.0, 2.0), (1.0, None), (0.4, 3.0)])
def test_guidance_inside_an_interval_is_all_guidance_there_and_none_outside(least: float, most: float | None):
    """Each modality by its own noise level; the model is called once or thrice in every step."""
    full = SamplerConfig(
        steps=6, text_guidance=PerModality(audio=2.5, video=7.5), map_guidance=PerModality(audio=2.0, video=3.0)
    )
    config = replace(full, guidance_least=least, guidance_most=most)
    found, wanted = run(everything, config, MAPS), _loop(config, MAPS)
    everywhere, nowhere = (
        run(everything, full, MAPS),
        run(everything, SamplerConfig(steps=6, text_guidance=ONE), MAPS),
    )
    for name in SHAPES:
        scale = np.abs(wanted[name]).max()
        np.testing.assert_allclose(found[name], wanted[name], rtol=2e-3, atol=2e-3 * scale)
        assert min(np.abs(found[name] - other[name]).max() for other in (everywhere, nowhere)) > 0.01 * scale


def test_an_interval_around_all_noise_levels_changes_nothing():
    config = SamplerConfig(steps=4)
    wide, wanted = run(everything, replace(config, guidance_most=1e6), MAPS), run(everything, config, MAPS)
    for name in SHAPES:
        np.testing.assert_allclose(wide[name], wanted[name], rtol=1e-6, atol=1e-6)


def test_an_empty_interval_is_refused():
    with pytest.raises(ConfigError, match=r"guidance_least=2\.0 and guidance_most=1\.0 leave no noise level"):
        SamplerConfig(guidance_least=2.0, guidance_most=1.0)
