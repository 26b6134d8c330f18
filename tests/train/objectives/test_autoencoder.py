"""The loss of the autoencoders, against its equations in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.train.objectives.autoencoder import (
    divergence,
    gradients,
    latent_std,
    latent_sums,
    reconstruction,
    vae_loss,
)
from con360av_jax.train.objectives.objective import noise
from con360av_jax.train.objectives.vae_video import crop, frame, psnr, summarise

RANDOM = np.random.default_rng(0)


def test_reconstruction_is_the_weighted_mean_of_each_row():
    difference = RANDOM.standard_normal((2, 4, 5, 3)).astype(np.float32)
    weight = RANDOM.uniform(0.5, 4, (2, 4, 5)).astype(np.float32)
    wanted = [
        np.average(np.abs(rows).mean(-1), weights=weights) for rows, weights in zip(difference, weight, strict=True)
    ]
    np.testing.assert_allclose(reconstruction(jnp.asarray(difference), jnp.asarray(weight)), wanted, rtol=1e-5)


def test_gradients_are_those_of_the_image_minus_those_of_its_reconstruction():
    x, made = (RANDOM.standard_normal((2, 4, 5, 3)).astype(np.float32) for _ in range(2))
    weight = np.ones((2, 4, 5), np.float32)
    wanted = np.zeros(2)
    for axis in (1, 2):
        wanted += np.abs(np.diff(x, axis=axis) - np.diff(made, axis=axis)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(gradients(jnp.asarray(x - made), jnp.asarray(weight)), wanted, rtol=1e-5)


def test_divergence_is_the_mean_log_ratio_of_the_densities():
    mean, std = np.float32(0.7), np.float32(0.4)
    z = np.random.default_rng(1).normal(mean, std, 200_000)
    log_ratio = -np.log(std) - (z - mean) ** 2 / (2 * std**2) + z**2 / 2
    found = divergence(jnp.full((1, 1, 1, 1), mean), jnp.full((1, 1, 1, 1), std))
    np.testing.assert_allclose(found, [log_ratio.mean()], rtol=5e-3)


def test_the_loss_is_the_sum_of_its_weighted_terms_and_a_row_depends_on_its_own_key():
    x = jnp.asarray(RANDOM.standard_normal((3, 4, 4, 1)), jnp.float32)
    keys = jax.random.key_data(jax.random.split(jax.random.key(5), 3))

    def loss(rows: slice) -> dict[str, jax.Array]:
        return vae_loss(
            lambda params, x: (0.5 * x, jnp.ones_like(x)), lambda params, z: z, {}, x[rows],
            jnp.ones((len(x[rows]), 4, 4)), keys[rows], gradient_weight=2.0, kl_weight=0.1,
        )[1]  # fmt: skip

    whole = loss(slice(None))
    np.testing.assert_allclose(whole["loss"], whole["l1"] + 2 * whole["gradient"] + 0.1 * whole["kl"], rtol=1e-6)
    each = [loss(slice(row, row + 1))["loss"] for row in range(3)]
    np.testing.assert_allclose(whole["loss"], np.mean(each), rtol=1e-5)
    drawn = np.asarray(noise(keys, x))
    assert len(np.unique(drawn)) == drawn.size


def test_the_standard_deviation_of_the_latent_is_that_of_draws():
    mean, std = RANDOM.normal(1.0, 2.0, (2, 3, 3, 4)), RANDOM.uniform(0.5, 1.5, (2, 3, 3, 4))
    draws = mean + std * np.random.default_rng(2).standard_normal((4000, *mean.shape))
    sums = latent_sums(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))
    found = latent_std(*(float(sums[f"latent_{name}"]) for name in ("sum", "squares", "values")))
    assert found == pytest.approx(draws.std(), rel=1e-2)


def test_psnr_counts_objects_alone_and_is_infinite_for_equal_frames():
    assert psnr(0.0) == np.inf
    assert psnr(4.0) == 0
    sums = {"squares": 0.4, "values": 10.0, "latent_sum": 0.0, "latent_squares": 4.0, "latent_values": 1.0}
    found = summarise({**sums, "object_squares": 0.4, "object_values": 1.0})
    assert found["psnr"] == pytest.approx(20)
    assert found["object_psnr"] == pytest.approx(10)
    assert "object_psnr" not in summarise({**sums, "object_squares": 0.0, "object_values": 0.0})


def test_crops_lie_in_the_frame_and_the_asked_share_of_them_on_an_object():
    video = RANDOM.integers(0, 255, (2, 12, 16, 3)).astype(np.uint8)
    objects = np.zeros((2, 12, 16), bool)
    objects[:, 1, 14] = True
    arrays, random = {"video": video, "objects": objects}, np.random.default_rng(3)
    for share, least, most in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.4)):
        found = [crop(arrays, 4, share, random) for _ in range(200)]
        assert {example["frames"].shape for example in found} == {(4, 4, 3)}
        assert least <= np.mean([example["objects"].any() for example in found]) <= most
    assert frame({"video": video}, random)["objects"].sum() == 0
