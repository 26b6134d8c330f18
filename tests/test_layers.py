"""Layers whose fast form differs from their definition: both must say the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from con360av_jax.models import layers


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 3, 5, 4, 6), (1, 1, 1, 2)], ids=str)
def test_doubling_by_phases_equals_convolving_the_repeated_pixels(shape, monkeypatch: pytest.MonkeyPatch):
    convolution = layers.conv(shape[-1], 7, rngs=nnx.Rngs(0), dtype=jnp.float32)
    random = np.random.default_rng(0)
    assert convolution.bias is not None
    convolution.bias[...] = jnp.asarray(random.standard_normal(7, np.float32))
    x = jnp.asarray(random.standard_normal((2, *shape), np.float32))
    fast, fast_gradient = jax.value_and_grad(lambda x: jnp.sum(jnp.sin(layers.doubled(convolution, x))))(x)
    found = layers.doubled(convolution, x)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    wanted = layers.doubled(convolution, x)
    slow, slow_gradient = jax.value_and_grad(lambda x: jnp.sum(jnp.sin(layers.doubled(convolution, x))))(x)
    assert found.shape == wanted.shape == (*x.shape[:-3], 2 * x.shape[-3], 2 * x.shape[-2], 7)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fast, slow, rtol=1e-4)
    np.testing.assert_allclose(fast_gradient, slow_gradient, rtol=1e-4, atol=1e-4)


def test_doubling_keeps_the_compute_dtype():
    convolution = layers.conv(4, 6, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    assert layers.doubled(convolution, jnp.ones((1, 2, 3, 4), jnp.bfloat16)).dtype == jnp.bfloat16
