"""The forward process, guidance and the training loss, against their equations stated a second time."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.config.settings import AUDIO_SCHEDULE, VIDEO_SCHEDULE, PerModality, SamplerConfig
from con360av_jax.denoiser import DenoiserInputs, Latents
from con360av_jax.diffusion import guidance, process
from tests.support.passes import one_after_the_other

SCHEDULES = PerModality(audio=AUDIO_SCHEDULE, video=VIDEO_SCHEDULE)
SHAPES = {"audio": (64, 5, 2, 3), "video": (64, 2, 3, 3, 2)}


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

    def __call__(self, inputs: Any) -> Latents:
        latents, text = inputs.latents, inputs.text
        self.batches.append(latents["audio"].shape[0])
        control = jnp.zeros(latents["audio"].shape[:1])
        if inputs.maps is not None:
            control = inputs.maps.mean(axis=(1, 2, 3, 4)) * inputs.map_mask.astype(jnp.float32)

        def one(name: str) -> jax.Array:
            caption = text[name].mean(axis=tuple(range(1, text[name].ndim)))
            steps = inputs.timesteps[name] + 2 * inputs.connector_timesteps[name]
            shift = caption * (1.0 + control) + 5.0 * control + 0.01 * steps.astype(jnp.float32)
            wide = jnp.expand_dims(shift, tuple(range(1, latents[name].ndim)))
            return latents[name] + 0.5 * inputs.clean_estimates[name] + 0.25 * inputs.connector_latents[name] + wide

        return {name: one(name) for name in latents}


ONE_PASS = jax.jit(Recorder())


def same(scale: float) -> PerModality[float]:
    return PerModality(audio=scale, video=scale)


def scales(text: float, basd: float, saliency: float | None) -> SamplerConfig:
    found = PerModality(audio=saliency, video=saliency)
    return SamplerConfig(text_guidance=same(text), map_guidance=same(basd), saliency_guidance=found)


@pytest.mark.parametrize(
    ("text_scale", "basd_scale", "saliency_scale", "passes"),
    [
        (7.5, 1.0, None, 2),
        (1.0, 1.0, None, 1),
        (7.5, 2.0, None, 3),
        (1.0, 2.0, None, 3),
        (4.0, 4.0, None, 2),
        (7.5, 2.0, 2.0, 3),
        (7.5, 1.0, 2.0, 3),
        (7.5, 2.0, 1.0, 4),
        (7.5, 3.0, 2.0, 4),
        (2.0, 0.0, 2.0, 3),
    ],
)
def test_guidance_equals_its_formula_with_no_pass_too_many(
    text_scale: float, basd_scale: float, saliency_scale: float | None, passes: int
):
    """Equation (1); a row without maps is guided by its text alone."""
    denoise = Recorder()
    x = _normal(0, {"audio": (2, 3, 2, 1), "video": (2, 3, 2, 2, 1)})
    t = {"audio": jnp.array([7, 8]), "video": jnp.array([70, 80])}
    clean = jax.tree.map(lambda a: a**2, x)
    weights = guidance.pass_weights(scales(text_scale, basd_scale, saliency_scale))
    mask = jnp.array([True, False])
    found = jax.jit(guidance.guided(one_after_the_other(denoise), TEXT, NEGATIVE, MAPS, mask, weights))(
        x, t, clean, None
    )
    # Those of audio and those of video.
    assert denoise.batches == [2] * (2 * passes)

    def alone(text, saliency: bool, basd: bool):
        maps = MAPS * jnp.array([saliency, basd], jnp.float32)[None, None, None, None]
        common: Any = {"latents": x, "timesteps": t, "clean_estimates": clean, "maps": maps}
        common |= {"connector_timesteps": t, "connector_latents": x}
        return ONE_PASS(DenoiserInputs(text=text, map_mask=mask & basd, **common))

    e_0, e_b, e_sb = alone(NEGATIVE, False, False), alone(NEGATIVE, False, True), alone(NEGATIVE, True, True)
    e_tsb = alone(TEXT, True, True)
    saliency_scale = basd_scale if saliency_scale is None else saliency_scale
    for name in x:
        wanted = e_0[name] + basd_scale * (e_b[name] - e_0[name]) + saliency_scale * (e_sb[name] - e_b[name])
        wanted = wanted + text_scale * (e_tsb[name] - e_sb[name])
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-4)
        plain = e_0[name][1] + text_scale * (e_tsb[name][1] - e_0[name][1])
        np.testing.assert_allclose(found[name][1], plain, rtol=1e-4, atol=1e-4)


def test_each_modality_is_guided_by_its_own_scales():
    x = _normal(0, {"audio": (2, 3, 2, 1), "video": (2, 3, 2, 2, 1)})
    t = {name: jnp.zeros((2,), jnp.int32) for name in x}

    def run(config: SamplerConfig):
        weights = guidance.pass_weights(config)
        denoise = one_after_the_other(Recorder())
        return jax.jit(guidance.guided(denoise, TEXT, NEGATIVE, MAPS, None, weights))(x, t, x, None)

    mixed = run(
        SamplerConfig(
            text_guidance=PerModality(audio=2.5, video=7.5),
            map_guidance=PerModality(audio=1.0, video=3.0),
            saliency_guidance=PerModality(audio=None, video=2.0),
        )
    )
    audio, video = run(scales(2.5, 1.0, None)), run(scales(7.5, 3.0, 2.0))
    np.testing.assert_allclose(mixed["audio"], audio["audio"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mixed["video"], video["video"], rtol=1e-5, atol=1e-5)
