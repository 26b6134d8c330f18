"""The training loss and what chance decides about a batch, against their equations stated a second time."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.config.settings import AUDIO_SCHEDULE, VIDEO_SCHEDULE, PerModality, TrainConfig
from con360av_jax.denoiser import Latents
from con360av_jax.diffusion import loss, schedule
from con360av_jax.diffusion.process import named_key
from con360av_jax.errors import ConfigError
from tests.support.tiny_world import leaves_equal
from tests.support.toy_model import training_loss

SCHEDULES = PerModality(audio=AUDIO_SCHEDULE, video=VIDEO_SCHEDULE)
SHAPES = {"audio": (64, 5, 2, 3), "video": (64, 2, 3, 3, 2)}


def _normal(seed: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


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
DRAW = jax.jit(lambda batch, key, dropout: loss.draw(batch, NULL_TEXT, dropout, key, SCHEDULES, RECIPE))


@pytest.fixture(scope="module")
def many() -> tuple[loss.Batch, loss.Draws]:
    """A batch large enough for statistics, and what chance made of it."""
    batch = _batch(1024)
    return batch, jax.tree.map(np.asarray, DRAW(batch, KEY, loss.dropout_rates(RECIPE)))


def test_conditions_are_dropped_independently_at_their_rates(many):
    drawn = many[1]
    size = len(drawn.map_mask)
    no_text, no_maps = drawn.text["audio"][:, 0] == 0, ~drawn.map_mask
    no_saliency, no_basd = (drawn.maps == 0).all(axis=(1, 2, 3)).T
    np.testing.assert_array_equal(no_text, drawn.text["video"][:, 2, 1] == 0)
    estimate = drawn.uses_estimate["audio"], drawn.uses_estimate["video"]
    for events, rate in (
        ((no_text,), 0.1),
        ((no_saliency,), 0.1),
        ((no_basd,), 0.1),
        ((no_saliency, no_basd), 0.01),
        ((no_text, no_saliency), 0.01),
        ((no_text, no_basd), 0.01),
        # Together, or one and the other: 1 - 0.9 (1 - 0.1^2).
        ((no_maps,), 0.109),
        ((no_text, no_maps), 0.0109),
        ((no_maps, no_saliency), 0.019),
        ((estimate[0],), 0.5),
        (estimate, 0.25),
    ):
        both = np.logical_and.reduce(events)
        assert abs(both.mean() - rate) < 4 * (rate * (1 - rate) / size) ** 0.5


def test_one_map_is_left_out_as_zeros_and_both_as_the_baseline(many):
    batch, drawn = many
    lost = (drawn.maps == 0).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(drawn.maps, np.where(lost[:, None, None, None], 0, batch["maps"]))
    together = jax.random.bernoulli(named_key(KEY, "map_dropout"), 0.1, lost.shape[:1])
    np.testing.assert_array_equal(drawn.map_mask, ~(together | lost.all(axis=1)))


def test_rates_given_as_values_draw_what_the_same_rates_draw_as_constants(many):
    """Also what was drawn before there were rates for one map."""
    batch, _ = many
    rates: Any = loss.dropout_rates(replace(RECIPE, saliency_dropout=0.0, basd_dropout=0.0))
    constant = jax.jit(lambda batch, key: loss.draw(batch, NULL_TEXT, rates, key, SCHEDULES, RECIPE))(batch, KEY)
    valued = DRAW(batch, KEY, rates)
    jax.tree.map(np.testing.assert_array_equal, valued, constant)
    np.testing.assert_array_equal(valued.maps, batch["maps"])
    before = jax.random.bernoulli(named_key(KEY, "map_dropout"), 0.1, valued.map_mask.shape)
    np.testing.assert_array_equal(valued.map_mask, ~before)


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


def _affine(params: dict[str, jax.Array], inputs: Any) -> Latents:
    """A model that uses all that it is given."""

    def one(name: str) -> jax.Array:
        text, x_t = inputs.text[name], inputs.latents[name]
        steps = inputs.timesteps[name] + inputs.connector_timesteps[name]
        rows = text.mean(axis=tuple(range(1, text.ndim))) + inputs.map_mask.astype(jnp.float32)
        rows = rows + inputs.maps.mean(axis=(1, 2, 3, 4)) + 1e-3 * steps.astype(jnp.float32)
        wide = params["b"] * jnp.expand_dims(rows, tuple(range(1, x_t.ndim)))
        clean, connector = inputs.clean_estimates[name], inputs.connector_latents[name]
        return params["w"] * x_t + params["c"] * clean + 0.3 * connector + wide

    return {name: one(name) for name in inputs.latents}


PARAMS = {"w": jnp.float32(0.6), "c": jnp.float32(0.2), "b": jnp.float32(0.1)}


def _by_hand(batch: loss.Batch, drawn: loss.Draws) -> dict[str, np.ndarray]:
    """Equations (1) to (4) sample by sample in float64: the squared error of each, per modality."""
    w, c, b = (float(PARAMS[name]) for name in "wcb")
    errors = {}
    for name, settings in (("audio", AUDIO_SCHEDULE), ("video", VIDEO_SCHEDULE)):
        a = np.cumprod(1 - schedule.betas(settings))
        t, s = drawn.timestep, drawn.connector_timesteps[name]
        assert drawn.map_mask is not None and drawn.maps is not None
        x_0, eps = drawn.clean[name], drawn.noise[name]
        errors[name] = np.zeros(len(t))
        for i in range(len(t)):
            x_t = np.sqrt(a[t[i]]) * x_0[i] + np.sqrt(1 - a[t[i]]) * eps[i]
            x_s = np.sqrt(a[s[i]]) * x_0[i] + np.sqrt(1 - a[s[i]]) * eps[i]
            row = np.mean(drawn.text[name][i]) + float(drawn.map_mask[i]) + np.mean(drawn.maps[i])
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
        lambda params, batch, null, key: training_loss(_affine, params, batch, null, key, SCHEDULES, RECIPE)
    )
    total, metrics = compute(PARAMS, many[0], NULL_TEXT, KEY)
    return {"returned": total, **metrics}


def test_loss_equals_its_equations(errors, metrics):
    assert float(metrics["loss/audio"]) == pytest.approx(errors["audio"].mean(), rel=1e-4)
    assert float(metrics["loss/video"]) == pytest.approx(errors["video"].mean(), rel=1e-4)
    assert float(metrics["returned"]) == pytest.approx(errors["audio"].mean() + errors["video"].mean(), rel=1e-4)
    assert float(metrics["loss"]) == float(metrics["returned"])


def test_weights_change_the_sum_and_its_gradient_but_no_other_number(many, errors, metrics):
    """Equation (4) with lambda = (2, 0.5) and gamma = 3, from errors by hand and signal-to-noise ratios in float64."""
    config = replace(RECIPE, loss_weight=PerModality(audio=2.0, video=0.5), min_snr_gamma=3.0)
    compute = jax.jit(lambda batch, key: training_loss(_affine, PARAMS, batch, NULL_TEXT, key, SCHEDULES, config))
    total, found = compute(many[0], KEY)
    wanted = 0.0
    for name, settings, weight in (("audio", AUDIO_SCHEDULE, 2.0), ("video", VIDEO_SCHEDULE, 0.5)):
        a = np.cumprod(1 - schedule.betas(settings))[many[1].timestep]
        snr = a / (1 - a)
        wanted += weight * np.mean(np.minimum(snr, 3.0) / snr * errors[name])
    assert float(total) == float(found["loss"]) == pytest.approx(wanted, rel=1e-4)
    for name in metrics.keys() - {"loss", "returned"}:
        np.testing.assert_allclose(found[name], metrics[name], rtol=1e-6, err_msg=name)


def test_without_weights_the_loss_and_its_gradient_are_those_of_the_plain_sum_bit_for_bit(many):
    batch, drawn = jax.tree.map(jnp.asarray, many)

    def plain(params):
        rows = loss.denoising_errors(_affine, params, drawn, SCHEDULES, RECIPE)
        return rows["audio"].mean() + rows["video"].mean()

    def weighed(params):
        return training_loss(_affine, params, batch, NULL_TEXT, KEY, SCHEDULES, RECIPE)[0]

    assert (RECIPE.loss_weight, RECIPE.min_snr_gamma) == (PerModality(audio=1.0, video=1.0), 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "draw", lambda *_: drawn)
        found = jax.jit(jax.value_and_grad(weighed))(PARAMS)
    assert leaves_equal(found, jax.jit(jax.value_and_grad(plain))(PARAMS))


def test_the_error_of_velocity_is_that_of_noise_over_alpha_bar(many, errors):
    """With x_t given, eps = sqrt(1 - a) x_t + sqrt(a) v, so that errors of v and eps differ by sqrt(a)."""
    schedules = PerModality(audio=AUDIO_SCHEDULE, video=replace(VIDEO_SCHEDULE, prediction="v"))
    alpha_bar = np.cumprod(1 - schedule.betas(VIDEO_SCHEDULE)).astype(np.float32)

    def velocity(params, inputs):
        made = _affine(params, inputs)
        a = jnp.expand_dims(jnp.asarray(alpha_bar)[inputs.timesteps["video"]], tuple(range(1, made["video"].ndim)))
        v = (made["video"] - jnp.sqrt(1 - a) * inputs.latents["video"]) / jnp.sqrt(a)
        return {**made, "video": v}

    drawn = jax.tree.map(jnp.asarray, many[1])
    found = jax.jit(lambda params: loss.denoising_errors(velocity, params, drawn, schedules, RECIPE))(PARAMS)
    np.testing.assert_allclose(found["audio"], errors["audio"], rtol=1e-3)
    np.testing.assert_allclose(found["video"], errors["video"] / alpha_bar[many[1].timestep], rtol=1e-3)


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

    def gradient(denoiser):
        return jax.jit(jax.grad(lambda p: training_loss(denoiser, p, batch, NULL_TEXT, KEY, SCHEDULES, RECIPE)[0]))

    def held(params, inputs):
        calls.append(params)
        return _affine(PARAMS if len(calls) == 1 else params, inputs)

    wanted, found = gradient(held)(PARAMS), gradient(_affine)(PARAMS)
    assert len(calls) == 2
    for name in PARAMS:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5)


def test_one_pass_is_enough_without_clean_estimates():
    calls = []

    def counted(params, inputs):
        calls.append(inputs)
        return _affine(params, inputs)

    config = replace(RECIPE, clean_estimate_share=0.0)
    jax.eval_shape(lambda batch: training_loss(counted, PARAMS, batch, NULL_TEXT, KEY, SCHEDULES, config), _batch(2))
    assert len(calls) == 1


def test_modalities_with_different_lengths_of_schedule_are_refused():
    uneven = PerModality(audio=replace(AUDIO_SCHEDULE, train_steps=500), video=VIDEO_SCHEDULE)
    with pytest.raises(ConfigError, match="500"):
        jax.eval_shape(lambda: loss.draw(_batch(2), NULL_TEXT, loss.dropout_rates(RECIPE), KEY, uneven, RECIPE))
