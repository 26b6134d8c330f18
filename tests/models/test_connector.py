"""Connectors before and after the first step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from con360av_jax.config.settings import ConnectorConfig
from con360av_jax.models import functional
from con360av_jax.models.connector import Connector, TimeAxis
from con360av_jax.models.film import Modulation
from con360av_jax.models.functional import Params, flatten

SHAPES: dict[TimeAxis, tuple[int, ...]] = {"frame": (2, 3, 2, 4, 8), "height": (2, 1, 6, 4, 8)}


def _random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def _fresh(time_axis: TimeAxis) -> Connector:
    config = ConnectorConfig(channels=6, head_width=4)
    return Connector(8, config, groups=4, time_axis=time_axis, rngs=nnx.Rngs(0), dtype=jnp.float32)


@pytest.mark.parametrize("time_axis", SHAPES)
def test_a_fresh_connector_is_the_identity(time_axis: TimeAxis):
    x, sequence = _random(0, *SHAPES[time_axis]), _random(1, 2, 5, 6)
    connector, modulation = _fresh(time_axis), Modulation(_random(2, *x.shape), _random(3, *x.shape))
    np.testing.assert_array_equal(connector(x, sequence), x)
    np.testing.assert_array_equal(connector(x, sequence, modulation), x)


def test_film_learns_from_the_second_step_on():
    graphdef, params = functional.split(_fresh("frame"))
    x, sequence = _random(0, *SHAPES["frame"]), _random(1, 2, 5, 6)

    def loss(params: Params, film: Modulation) -> jax.Array:
        return jnp.mean(jnp.square(functional.merge(graphdef, params)(x, sequence, film) - 1))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    film = Modulation(jnp.zeros(x.shape), jnp.zeros(x.shape))
    first, film_first = gradient(params, film)
    assert not np.any(film_first.scale) and not np.any(film_first.shift)
    assert {path for path, leaf in flatten(first).items() if np.any(leaf)} == {"proj_out/kernel", "proj_out/bias"}
    _, film_second = gradient(jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, params, first), film)
    assert np.any(film_second.scale) and np.any(film_second.shift)
