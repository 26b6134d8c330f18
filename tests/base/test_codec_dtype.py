"""VAEs, text encoders and vocoder in bfloat16: what computes in it, what stays float32, and how far results move."""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Jaxpr

from con360av_jax.base.parts import codec_factory
from con360av_jax.config.settings import Config
from con360av_jax.models import functional
from con360av_jax.models.functional import Params
from con360av_jax.runtime.flops import inner_jaxprs

PRODUCTS = ("dot_general", "conv_general_dilated")
# Products that stay float32, because what comes out of a network should have more than 8 bits: last convolutions and
# projections; and the VAE's moments.
LAST_PRODUCTS = {"vae_audio": 3, "vae_video": 3, "text_audio": 1, "text_video": 0, "vocoder": 1}
# bfloat16 rounds by 2^-9 = 0.002; random networks of this depth spread that over a few per cent at most.
BFLOAT16_ERROR = 4e-2


def run(part: str, config: Config, dtype: str) -> tuple[Callable[..., Any], Params]:
    graphdef, _ = functional.abstract(codec_factory(part, config.model, dtype))
    params = functional.init(codec_factory(part, config.model, dtype), jax.random.key(zlib.crc32(part.encode())))

    def call(params: Params, *inputs: jax.Array) -> tuple[jax.Array, ...]:
        network: Any = functional.merge(graphdef, params)
        if not part.startswith("vae"):
            return (network(*inputs),)
        mean, std = network.encode(inputs[0])
        return mean, std, network.decode(mean)

    return call, params


def inputs(part: str, config: Config) -> tuple[jax.Array, ...]:
    random, modality = np.random.default_rng(0), part.rpartition("_")[2]
    if part.startswith("text"):
        text = getattr(config.model.text, modality)
        tokens = random.integers(2, text.vocabulary, (2, min(text.tokens, 12)))
        return (jnp.asarray(tokens, jnp.int32), *([jnp.ones(tokens.shape, bool)] if modality == "audio" else []))
    if part == "vocoder":
        return (jnp.asarray(random.normal(-5, 2, (1, 20, config.mel.bands)), jnp.float32),)
    vae = getattr(config.model.vae, modality)
    shape = (1, 4 * vae.factor, 4 * vae.factor, vae.in_channels)
    return (jnp.asarray(random.standard_normal(shape), jnp.float32),)


def equations(jaxpr: Jaxpr) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_jaxprs(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("part", LAST_PRODUCTS)
def test_bfloat16_reaches_every_product_but_the_last_ones(part: str, tiny: Config, monkeypatch: pytest.MonkeyPatch):
    call, params = run(part, tiny, "bfloat16")
    # Where bfloat16 is for; a CPU adds up kernels for its upsampling first, in float32.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    traced = jax.make_jaxpr(call)(params, *inputs(part, tiny))
    products = [one for one in equations(traced.jaxpr) if one.primitive.name in PRODUCTS]
    wide = [one for one in products if all(operand.aval.dtype == jnp.float32 for operand in one.invars)]
    assert len(products) >= 8
    assert len(wide) == LAST_PRODUCTS[part]
    assert {leaf.dtype for leaf in traced.out_avals} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("part", LAST_PRODUCTS)
def test_bfloat16_changes_results_by_its_rounding_only(part: str, tiny: Config):
    found = {}
    for dtype in ("float32", "bfloat16"):
        call, params = run(part, tiny, dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
        found[dtype] = jax.jit(call)(params, *inputs(part, tiny))
    for exact, rounded in zip(found["float32"], found["bfloat16"], strict=True):
        error = float(jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact))
        assert 1e-5 < error < BFLOAT16_ERROR
