"""FiLM's grids: time t of audio is time t of the maps."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import latent_shapes, maps_shape, padded_time, text_shapes
from con360av_jax.denoiser import DenoiserInputs
from con360av_jax.models import film, joint
from con360av_jax.models.joint import joint_model

STEPS = 100  # of the audio latent in 4.00 s; the U-Net pads them to 104


def middles(cells: int, steps: int) -> np.ndarray:
    """Middle of the valid time of each cell, as a share of the clip; cells of the padding repeat the last valid one."""
    width = padded_time(steps) // cells
    borders = [(i * width, min((i + 1) * width, steps)) for i in range(cells) if i * width < steps]
    found = [(start + end) / 2 / steps for start, end in borders]
    return np.array(found + found[-1:] * (cells - len(found)))


def pooled(values: np.ndarray, cells: int, steps: int) -> np.ndarray:
    """Features that hold `values` (frame) in every cell of the map and both channels, on an audio site."""
    features = jnp.broadcast_to(values.astype(np.float32)[None, :, None, None, None], (1, len(values), 2, 4, 2))
    found = np.asarray(film.pool_time(features, cells, steps))
    assert found.shape == (1, 1, cells, 1, 2)
    np.testing.assert_array_equal(found[..., 0], found[..., 1])
    return found[0, 0, :, 0, 0]


@pytest.mark.parametrize("cells", [104, 52, 26, 13])
@pytest.mark.parametrize("frames", [STEPS, 2 * STEPS])
def test_maps_that_equal_time_give_each_cell_its_mean_time(frames: int, cells: int):
    times = (np.arange(frames) + 0.5) / frames
    np.testing.assert_allclose(pooled(times, cells, STEPS), middles(cells, STEPS), atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "cells", "steps"), [(32, 13, 100), (32, 52, 100), (4, 4, 25), (4, 16, 25), (8, 7, 50)]
)
def test_frames_count_by_the_time_that_they_share_with_a_cell(frames: int, cells: int, steps: int):
    """The mean of a signal that holds each frame until the next, taken on a grid that both divide."""
    values = np.random.default_rng(0).normal(size=frames)
    fine = np.repeat(values, steps)
    width = padded_time(steps) // cells * frames
    wanted = [part.mean() for part in np.split(fine, range(width, len(fine), width))]
    wanted += wanted[-1:] * (cells - len(wanted))
    np.testing.assert_allclose(pooled(values, cells, steps), wanted, atol=1e-6)
    times = (np.arange(frames) + 0.5) / frames
    assert np.abs(pooled(times, cells, steps) - middles(cells, steps)).max() <= 0.5 / frames


def test_every_audio_site_pools_over_the_valid_steps_of_its_own_grid(tiny: Config, monkeypatch: pytest.MonkeyPatch):
    """25 latent steps, padded to 32, of which the deepest sites keep an eighth."""
    seen, pool_time = [], film.pool_time

    def watched(features: jax.Array, cells: int, steps: int) -> jax.Array:
        seen.append((cells, steps))
        return pool_time(features, cells, steps)

    monkeypatch.setattr(joint, "pool_time", watched)

    def some(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    inputs = DenoiserInputs(
        latents={name: some(shape) for name, shape in latent_shapes(tiny).items()},  # pyright: ignore
        timesteps=dict.fromkeys(("audio", "video"), jax.ShapeDtypeStruct((1,), jnp.int32)),  # pyright: ignore
        text={name: some(shape) for name, shape in text_shapes(tiny).items()},  # pyright: ignore
        maps=some(maps_shape(tiny)),  # pyright: ignore
    )
    denoise, params = joint_model(tiny, "float32")
    run: Callable = partial(denoise)
    jax.eval_shape(run, params, inputs)
    assert seen == [(4, 25), (4, 25), (8, 25), (16, 25)]
