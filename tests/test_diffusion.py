"""Schedules, the forward process, guidance and the training loss, against their equations stated a second time."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.config import AUDIO_SCHEDULE, VIDEO_SCHEDULE, NoiseSchedule, PerModality, TrainConfig
from con360av_jax.diffusion import guidance, loss, process, schedule
from con360av_jax.errors import ConfigError

SCHEDULES = PerModality(audio=AUDIO_SCHEDULE, video=VIDEO_SCHEDULE)
SHAPES = {"audio": (64, 5, 2, 3), "video": (64, 2, 3, 3, 2)}


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


def _normal(seed: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _pair(seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    random = np.random.default_rng(seed + 1)
    a = {name: random.uniform(0.05, 0.95, shape[:1]).astype(np.float32) for name, shape in SHAPES.items()}
    return _normal(seed, SHAPES), _normal(seed + 2, SHAPES), a


ADD_NOISE = jax.jit(process.add_noise)
CONVERT = jax.jit(process.convert, static_argnums=(0, 1))


def test_noised_latents_follow_the_forward_process():
    x_0, eps, a = _pair(0)
    x_t = jax.tree.map(np.asarray, ADD_NOISE(x_0, eps, a))
    for name in SHAPES:
        for i in range(3):
            wanted = np.sqrt(a[name][i]) * x_0[name][i] + np.sqrt(1 - a[name][i]) * eps[name][i]
            np.testing.assert_allclose(x_t[name][i], wanted, rtol=1e-6, atol=1e-6)


def test_every_conversion_recovers_what_was_wanted():
    x_0, eps, a = _pair(1)
    x_t = ADD_NOISE(x_0, eps, a)

    def velocity(name: str) -> np.ndarray:
        wide = a[name][(slice(None),) + (None,) * (x_0[name].ndim - 1)]
        return np.sqrt(wide) * eps[name] - np.sqrt(1 - wide) * x_0[name]

    kinds = {"epsilon": eps, "x0": x_0, "v": {name: velocity(name) for name in SHAPES}}
    for given, wanted in product(kinds, kinds):
        found = CONVERT(given, wanted, kinds[given], x_t, a)
        for name in SHAPES:
            np.testing.assert_allclose(found[name], kinds[wanted][name], atol=2e-5, err_msg=f"{given} -> {wanted}")


def test_noise_of_a_modality_does_not_depend_on_the_others():
    key = jax.random.key(3)
    alone = process.draw_noise(key, {"video": (4,)})["video"]
    np.testing.assert_array_equal(alone, process.draw_noise(key, {"audio": (4,), "video": (4,)})["video"])
    assert not np.allclose(alone, process.draw_noise(key, {"audio": (4,)})["audio"])


TEXT = {"audio": jnp.full((2, 3), 2.0), "video": jnp.full((2, 4, 3), 3.0)}
NEGATIVE = {"audio": jnp.full((2, 3), -1.0), "video": jnp.full((2, 4, 3), -2.0)}
MAPS = jnp.arange(2.0)[:, None, None, None, None] * jnp.ones((2, 3, 2, 4, 2)) + 1.0


class Recorder:
    """A denoise function that is affine in every condition and remembers how often and how wide it was called."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, latents, timesteps, text, clean, connector_timesteps, connector_latents, maps, map_mask, /):
        self.batches.append(latents["audio"].shape[0])
        control = jnp.zeros(latents["audio"].shape[:1])
        if maps is not None:
            control = maps.mean(axis=(1, 2, 3, 4)) * map_mask.astype(jnp.float32)

        def one(name: str) -> jax.Array:
            caption = text[name].mean(axis=tuple(range(1, text[name].ndim)))
            when = timesteps[name].astype(jnp.float32) + 2.0 * connector_timesteps[name].astype(jnp.float32)
            shift = caption * (1.0 + control) + 5.0 * control + 0.01 * when
            wide = jnp.expand_dims(shift, tuple(range(1, latents[name].ndim)))
            return latents[name] + 0.5 * clean[name] + 0.25 * connector_latents[name] + wide

        return {name: one(name) for name in latents}


ONE_PASS = jax.jit(Recorder())


@pytest.mark.parametrize(
    ("with_maps", "text_scale", "map_scale", "passes"),
    [
        (False, 7.5, 1.0, 2),
        (False, 1.0, 1.0, 1),
        (False, 1.0, 3.0, 1),
        (True, 7.5, 1.0, 2),
        (True, 1.0, 1.0, 1),
        (True, 7.5, 2.0, 3),
        (True, 1.0, 2.0, 3),
        (True, 4.0, 4.0, 2),
    ],
)
def test_guidance_equals_its_formula_with_no_pass_too_many(
    with_maps: bool, text_scale: float, map_scale: float, passes: int
):
    """eps = e_00 + g_map (e_0m - e_00) + g_text (e_tm - e_0m); without maps e_0 + g_text (e_t - e_0)."""
    denoise = Recorder()
    maps = MAPS if with_maps else None
    x = _normal(0, {"audio": (2, 3, 2, 1), "video": (2, 3, 2, 2, 1)})
    t = {"audio": jnp.array([7, 8]), "video": jnp.array([70, 80])}
    clean = jax.tree.map(lambda a: a**2, x)
    text_scales = {"audio": text_scale, "video": text_scale}
    map_scales = {"audio": map_scale, "video": map_scale}
    found = jax.jit(guidance.guided(denoise, TEXT, NEGATIVE, maps, text_scales, map_scales))(x, t, clean)
    assert denoise.batches == [2 * passes]

    def alone(text, with_control: bool):
        mask = None if maps is None else np.full((2,), with_control)
        return ONE_PASS(x, t, text, clean, t, x, maps, mask)

    e_00, e_0m, e_tm = alone(NEGATIVE, False), alone(NEGATIVE, True), alone(TEXT, True)
    for name in x:
        control = map_scale * (e_0m[name] - e_00[name]) if with_maps else 0.0
        wanted = e_00[name] + control + text_scale * (e_tm[name] - e_0m[name])
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-4)


def test_each_modality_is_guided_by_its_own_scales():
    x = _normal(0, {"audio": (2, 3, 2, 1), "video": (2, 3, 2, 2, 1)})
    t = {name: jnp.zeros((2,), jnp.int32) for name in x}

    def run(text_scales: dict[str, float], map_scales: dict[str, float]):
        return jax.jit(guidance.guided(Recorder(), TEXT, NEGATIVE, MAPS, text_scales, map_scales))(x, t, x)

    mixed = run({"audio": 2.5, "video": 7.5}, {"audio": 1.0, "video": 3.0})
    audio = run({"audio": 2.5, "video": 2.5}, {"audio": 1.0, "video": 1.0})
    video = run({"audio": 7.5, "video": 7.5}, {"audio": 3.0, "video": 3.0})
    np.testing.assert_allclose(mixed["audio"], audio["audio"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mixed["video"], video["video"], rtol=1e-5, atol=1e-5)


def _batch(size: int, seed: int = 0) -> loss.Batch:
    shapes = {name: (size, *shape[1:]) for name, shape in SHAPES.items()}
    batch = {
        "moments": {
            name: {"mean": mean, "std": np.full(mean.shape, 0.1, np.float32)}
            for name, mean in _normal(seed, shapes).items()
        },
        "text": {"audio": np.ones((size, 3), np.float32), "video": np.ones((size, 4, 3), np.float32)},
        "maps": np.random.default_rng(seed).uniform(size=(size, 2, 2, 4, 2)).astype(np.float32),
        "viewpoint": np.zeros((size, 2, 4), np.float32),
        "sample_id": np.arange(size),
    }
    return cast(loss.Batch, batch)


NULL_TEXT = {"audio": jnp.zeros((3,)), "video": jnp.zeros((4, 3))}
RECIPE = TrainConfig()
KEY = jax.random.key(5)
DRAW = jax.jit(lambda batch, key: loss.draw(batch, NULL_TEXT, key, SCHEDULES, RECIPE))


@pytest.fixture(scope="module")
def many() -> tuple[loss.Batch, loss.Draws]:
    """A batch large enough for statistics, and what chance made of it."""
    batch = _batch(1024)
    return batch, jax.tree.map(np.asarray, DRAW(batch, KEY))


def test_conditions_are_dropped_independently_at_their_rates(many):
    drawn = many[1]
    size = len(drawn.map_mask)
    no_text, no_maps = drawn.text["audio"][:, 0] == 0, ~drawn.map_mask
    np.testing.assert_array_equal(no_text, drawn.text["video"][:, 2, 1] == 0)
    estimate = drawn.uses_estimate["audio"], drawn.uses_estimate["video"]
    for events, rate in (
        ((no_text,), 0.1),
        ((no_maps,), 0.1),
        ((no_text, no_maps), 0.01),
        ((estimate[0],), 0.5),
        (estimate, 0.25),
    ):
        both = np.logical_and.reduce(events)
        assert abs(both.mean() - rate) < 4 * (rate * (1 - rate) / size) ** 0.5


def test_timesteps_are_shared_but_those_of_connectors_are_not(many):
    drawn = many[1]
    seen = np.stack([drawn.timestep, drawn.connector_timesteps["audio"], drawn.connector_timesteps["video"]])
    assert seen.min() >= 0 and seen.max() <= 999 and seen.max() > 990 and seen.min() < 10
    assert np.abs(np.corrcoef(seen) - np.eye(3)).max() < 0.1


def test_latents_are_drawn_from_their_moments(many):
    batch, drawn = many
    for name, clean in drawn.clean.items():
        z = (clean - batch["moments"][name]["mean"]) / 0.1
        assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02
        assert abs(np.corrcoef(z.ravel(), drawn.noise[name].ravel())[0, 1]) < 0.02


def _affine(params, x_t, t, text, clean, connector_t, connector_x, maps, map_mask, /):
    """A model that uses all that it is given."""

    def one(name: str) -> jax.Array:
        rows = text[name].mean(axis=tuple(range(1, text[name].ndim))) + map_mask.astype(jnp.float32)
        rows = rows + maps.mean(axis=(1, 2, 3, 4)) + 1e-3 * (t[name] + connector_t[name]).astype(jnp.float32)
        wide = jnp.expand_dims(rows, tuple(range(1, x_t[name].ndim)))
        return params["w"] * x_t[name] + params["c"] * clean[name] + 0.3 * connector_x[name] + params["b"] * wide

    return {name: one(name) for name in x_t}


PARAMS = {"w": jnp.float32(0.6), "c": jnp.float32(0.2), "b": jnp.float32(0.1)}


def _by_hand(batch: loss.Batch, drawn: loss.Draws) -> dict[str, np.ndarray]:
    """Equations (1) to (4) sample by sample in float64: the squared error of each, per modality."""
    w, c, b = (float(PARAMS[name]) for name in "wcb")
    errors = {}
    for name, settings in (("audio", AUDIO_SCHEDULE), ("video", VIDEO_SCHEDULE)):
        a = np.cumprod(1 - schedule.betas(settings))
        t, s = drawn.timestep, drawn.connector_timesteps[name]
        x_0, eps = drawn.clean[name], drawn.noise[name]
        errors[name] = np.zeros(len(t))
        for i in range(len(t)):
            x_t = np.sqrt(a[t[i]]) * x_0[i] + np.sqrt(1 - a[t[i]]) * eps[i]
            x_s = np.sqrt(a[s[i]]) * x_0[i] + np.sqrt(1 - a[s[i]]) * eps[i]
            row = np.mean(drawn.text[name][i]) + float(drawn.map_mask[i]) + np.mean(batch["maps"][i])
            first = w * x_t + 0.3 * x_s + b * (row + 1e-3 * (t[i] + s[i]))
            estimate = (x_t - np.sqrt(1 - a[t[i]]) * first) / np.sqrt(a[t[i]])
            second = first + c * estimate * bool(drawn.uses_estimate[name][i])
            errors[name][i] = np.mean((second - eps[i]) ** 2)
    return errors


@pytest.fixture(scope="module")
def errors(many) -> dict[str, np.ndarray]:
    return _by_hand(*many)


@pytest.fixture(scope="module")
def metrics(many) -> dict[str, np.ndarray]:
    compute = jax.jit(
        lambda params, batch, null, key: loss.training_loss(_affine, params, batch, null, key, SCHEDULES, RECIPE)
    )
    total, metrics = compute(PARAMS, many[0], NULL_TEXT, KEY)
    return {"returned": total, **metrics}


def test_loss_equals_its_equations(errors, metrics):
    assert float(metrics["loss/audio"]) == pytest.approx(errors["audio"].mean(), rel=1e-4)
    assert float(metrics["loss/video"]) == pytest.approx(errors["video"].mean(), rel=1e-4)
    assert float(metrics["returned"]) == pytest.approx(errors["audio"].mean() + errors["video"].mean(), rel=1e-4)
    assert float(metrics["loss"]) == float(metrics["returned"])


def test_buckets_split_the_loss_by_timestep(many, errors, metrics):
    bucket = many[1].timestep // 250
    np.testing.assert_array_equal(metrics["bucket_count"], np.bincount(bucket, minlength=4))
    for name in SHAPES:
        wanted = np.bincount(bucket, weights=errors[name], minlength=4)
        np.testing.assert_allclose(metrics[f"bucket_sum/{name}"], wanted, rtol=1e-4)


def test_no_gradient_flows_through_the_clean_estimates(many, monkeypatch):
    """The gradient is that of a loss whose first pass runs with constants in place of the parameters."""
    batch, drawn = jax.tree.map(jnp.asarray, many)
    monkeypatch.setattr(loss, "draw", lambda *_: drawn)
    calls = []

    def gradient(apply):
        return jax.jit(jax.grad(lambda p: loss.training_loss(apply, p, batch, NULL_TEXT, KEY, SCHEDULES, RECIPE)[0]))

    def held(params, *inputs):
        calls.append(params)
        return _affine(PARAMS if len(calls) == 1 else params, *inputs)

    wanted, found = gradient(held)(PARAMS), gradient(_affine)(PARAMS)
    assert len(calls) == 2
    for name in PARAMS:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5)


def test_one_pass_is_enough_without_clean_estimates():
    calls = []

    def counted(*inputs):
        calls.append(inputs)
        return _affine(*inputs)

    config = replace(RECIPE, clean_estimate_share=0.0)
    jax.eval_shape(
        lambda batch: loss.training_loss(counted, PARAMS, batch, NULL_TEXT, KEY, SCHEDULES, config), _batch(2)
    )
    assert len(calls) == 1


def test_modalities_with_different_lengths_of_schedule_are_refused():
    uneven = PerModality(audio=replace(AUDIO_SCHEDULE, train_steps=500), video=VIDEO_SCHEDULE)
    with pytest.raises(ConfigError, match="500"):
        jax.eval_shape(lambda: loss.draw(_batch(2), NULL_TEXT, jax.random.key(0), uneven, RECIPE))
