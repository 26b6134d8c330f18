"""The sampler against a distribution whose noise is known exactly, a plain loop and its own computation graph."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from con360av_jax.config.settings import AUDIO_SCHEDULE, VIDEO_SCHEDULE, PerModality, SamplerConfig
from con360av_jax.denoiser import Denoise, DenoiserInputs, Latents
from con360av_jax.diffusion import schedule
from con360av_jax.diffusion.process import draw_noise
from con360av_jax.diffusion.sampler import sample, trajectories, without_map_guidance
from con360av_jax.errors import ConfigError
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


def _sample(denoise: Denoise, *args: Any) -> Latents:
    return sample(one_after_the_other(denoise), *args)


def _run(denoise, config: SamplerConfig, maps: jax.Array | None = None):
    compute = jax.jit(lambda noise: _sample(denoise, noise, TEXT, NEGATIVE, maps, SCHEDULES, config))
    return jax.tree.map(np.asarray, compute(NOISE))


def test_ddim_of_normal_data_equals_its_closed_form():
    """Each step multiplies x_t - sqrt(a) mean by (sqrt(a' a) s^2 + sqrt((1 - a')(1 - a))) / (a s^2 + 1 - a)."""
    config = SamplerConfig(steps=10, text_guidance=ONE)
    found = _run(normal_data, config)
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
    found = jax.jit(lambda noise: _sample(velocity, noise, TEXT, NEGATIVE, None, schedules, config))(NOISE)
    wanted = _run(normal_data, config)
    for name in SHAPES:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-3, atol=1e-3)


def test_many_steps_turn_noise_into_the_data_distribution():
    """The flow of normal data maps noise z to mean + spread z, but for the noise that is left at both ends."""
    found = _run(normal_data, SamplerConfig(steps=500, text_guidance=ONE))
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
    found, wanted = _run(everything, config, maps), _loop(config, maps)
    for name in SHAPES:
        np.testing.assert_allclose(found[name], wanted[name], rtol=2e-3, atol=2e-3 * np.abs(wanted[name]).max())


def test_rows_without_control_are_those_of_a_sampler_that_knows_no_maps():
    """Also where maps are guided: one batch may hold rows with and without control."""
    config = SamplerConfig(steps=3, map_guidance=PerModality(audio=3.0, video=2.0))

    def masked(mask: list[bool], settings: SamplerConfig = config) -> dict[str, np.ndarray]:
        def run(noise: Latents, mask: jax.Array) -> Latents:
            return _sample(everything, noise, TEXT, NEGATIVE, MAPS, SCHEDULES, settings, mask)

        return jax.tree.map(np.asarray, jax.jit(run)(NOISE, jnp.array(mask)))

    none = _run(everything, config)
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
    found = _run(lambda inputs: inputs.clean_estimates, config)
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
    jaxpr = jax.make_jaxpr(lambda noise: _sample(everything, noise, TEXT, NEGATIVE, MAPS, SCHEDULES, config))(NOISE)
    scans = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    assert len(scans) == 1
    carried = [variable.aval.shape for variable in scans[0].outvars]
    assert scans[0].params["num_carry"] == len(carried)
    assert sorted(carried) == sorted([*SHAPES.values()] * 2)


def test_samples_do_not_depend_on_the_rest_of_the_batch():
    config = SamplerConfig(steps=3)
    both = _run(everything, config, MAPS)
    first = jax.tree.map(lambda x: x[:1], (NOISE, TEXT, NEGATIVE, MAPS))
    alone = jax.jit(lambda n, t, u, m: _sample(everything, n, t, u, m, SCHEDULES, config))(*first)
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
    found = jax.jit(lambda noise: _sample(normal_data, noise, TEXT, NEGATIVE, None, clear, config))(NOISE)
    for name, path in trajectories(clear, config).items():
        a, variance = float(path.alpha_bar[0]), SPREAD[name] ** 2
        expected = MEAN[name] + np.sqrt(a) * variance / (a * variance + 1 - a) * (NOISE[name] - np.sqrt(a) * MEAN[name])
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("steps", [1, 5, 16])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc"])
def test_multistep_solvers_equal_those_of_diffusers(solver: Any, steps: int, final: bool):
    """Each on the adjusted timesteps of its modality; the clean estimates stay a feedback for the model."""
    ends = [replace(settings, set_alpha_to_one=final) for settings in (AUDIO_SCHEDULE, VIDEO_SCHEDULE)]
    schedules = PerModality(audio=ends[0], video=ends[1])
    config = SamplerConfig(steps=steps, solver=solver, text_guidance=ONE)
    found = jax.jit(lambda noise: _sample(everything, noise, TEXT, NEGATIVE, None, schedules, config))(NOISE)
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
        return float(np.abs(_run(normal_data, config)["video"] - flow).mean())

    # Audio's published spacing leaves a long last step of first order, whose error hides the others.
    assert least < error(80) / error(40) < most


@pytest.mark.parametrize(("least", "most"), [(0.0, 2.0), (1.0, None), (0.4, 3.0)])
def test_guidance_inside_an_interval_is_all_guidance_there_and_none_outside(least: float, most: float | None):
    """Each modality by its own noise level; the model is called once or thrice in every step."""
    full = SamplerConfig(
        steps=6, text_guidance=PerModality(audio=2.5, video=7.5), map_guidance=PerModality(audio=2.0, video=3.0)
    )
    config = replace(full, guidance_least=least, guidance_most=most)
    found, wanted = _run(everything, config, MAPS), _loop(config, MAPS)
    everywhere, nowhere = (
        _run(everything, full, MAPS),
        _run(everything, SamplerConfig(steps=6, text_guidance=ONE), MAPS),
    )
    for name in SHAPES:
        scale = np.abs(wanted[name]).max()
        np.testing.assert_allclose(found[name], wanted[name], rtol=2e-3, atol=2e-3 * scale)
        assert min(np.abs(found[name] - other[name]).max() for other in (everywhere, nowhere)) > 0.01 * scale


def test_an_interval_around_all_noise_levels_changes_nothing():
    config = SamplerConfig(steps=4)
    wide, wanted = _run(everything, replace(config, guidance_most=1e6), MAPS), _run(everything, config, MAPS)
    for name in SHAPES:
        np.testing.assert_allclose(wide[name], wanted[name], rtol=1e-6, atol=1e-6)


def test_an_empty_interval_is_refused():
    with pytest.raises(ConfigError, match=r"guidance_least=2\.0 and guidance_most=1\.0 leave no noise level"):
        SamplerConfig(guidance_least=2.0, guidance_most=1.0)
