"""Layers whose fast form differs from their definition: both must say the same."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from con360av_jax.models import attention, functional, layers
from con360av_jax.models.connector import TimeAxis
from con360av_jax.models.environment import mean_of_convolution
from con360av_jax.models.functional import Params


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 3, 5, 4, 6), (1, 1, 1, 2)], ids=str)
def test_doubling_by_phases_equals_convolving_the_repeated_pixels(shape, monkeypatch: pytest.MonkeyPatch):
    convolution = layers.conv(shape[-1], 7, rngs=nnx.Rngs(0), dtype=jnp.float32)
    random = np.random.default_rng(0)
    assert convolution.bias is not None
    convolution.bias[...] = jnp.asarray(random.standard_normal(7, np.float32))
    graphdef, params = functional.split(convolution)
    x = jnp.asarray(random.standard_normal((2, *shape), np.float32))

    def told(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = layers.doubled(functional.merge(graphdef, params), x)
        return jnp.sum(jnp.sin(y)), y

    fast = jax.value_and_grad(told, argnums=(0, 1), has_aux=True)(params, x)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    slow = jax.value_and_grad(told, argnums=(0, 1), has_aux=True)(params, x)
    assert fast[0][1].shape == (*x.shape[:-3], 2 * x.shape[-3], 2 * x.shape[-2], 7)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), fast, slow)


def test_the_gradient_of_doubling_moves_no_windows():
    """Each window of the fast form becomes a zero-padded copy in its derivative, which takes ten times as long."""
    convolution = layers.conv(4, 6, rngs=nnx.Rngs(0), dtype=jnp.float32)
    gradient = jax.grad(lambda x: jnp.sum(layers.doubled(convolution, x)))
    assert " pad[" not in str(jax.make_jaxpr(gradient)(jnp.ones((1, 2, 3, 4))))


def test_doubling_keeps_the_compute_dtype():
    convolution = layers.conv(4, 6, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    assert layers.doubled(convolution, jnp.ones((1, 2, 3, 4), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(("time_axis", "space"), [("frame", (2, 3)), ("height", (1, 3))])
@pytest.mark.parametrize("size", [(3, 5, 4), (1, 1, 1), (2, 2, 1)], ids=str)
def test_the_mean_of_a_convolution_needs_no_convolution(
    time_axis: TimeAxis, space: tuple[int, int], size: tuple[int, int, int]
):
    convolution = layers.conv(4, 6, rngs=nnx.Rngs(0), dtype=jnp.float32)
    random = np.random.default_rng(1)
    assert convolution.bias is not None
    convolution.bias[...] = jnp.asarray(random.standard_normal(6, np.float32))
    frames, height, width = size if time_axis == "frame" else (1, *size[:2])
    x = jnp.asarray(1 + random.standard_normal((2, frames, height, width, 4), np.float32))
    found = mean_of_convolution(convolution, x, time_axis)
    np.testing.assert_allclose(found, jnp.mean(convolution(x), space), rtol=1e-5, atol=1e-6)


def test_attention_over_groups_of_heads_equals_plain_attention(monkeypatch: pytest.MonkeyPatch):
    query, key, value = (
        jax.random.normal(jax.random.key(seed), (2, tokens, 8, 4)) for seed, tokens in ((10, 16), (11, 9), (12, 9))
    )
    wanted, shapes, plain = attention.plain_attention(query, key, value), [], attention.plain_attention
    monkeypatch.setattr(attention, "CHUNKED_SCORES", 2 * 8 * 16 * 9)
    monkeypatch.setattr(attention, "plain_attention", lambda *x: (shapes.append(x[0].shape), plain(*x))[1])
    np.testing.assert_allclose(attention.attention(query, key, value), wanted, atol=1e-6)
    assert shapes == [(2, 16, 4, 4)]
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(wanted, np.einsum("bhqk,bkhd->bqhd", weights, value), atol=1e-5)
