"""Network that turns frames or log-mels into the space of a text encoder, for training both by contrast."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from con360av_jax.models.judge import Block, resized
from con360av_jax.models.layers import linear

TEMPERATURE = 0.07
"""Temperature of the softmax before training; Radford et al. 2021, section 2.5."""
SHARPEST = 100.0
"""Largest factor of a cosine, as there."""
_COARSE = 4  # side of the input's small version: norms lose colour and loudness


class ContrastTower(nnx.Module):
    """A convolutional network with one vector of unit length per input, and the factor of cosines with it."""

    def __init__(self, channels: int, columns: int, widths: Sequence[int], features: int, *, rngs: nnx.Rngs):
        """Inputs have `channels` and `columns`; each stage, of the given width, halves rows and columns."""
        self.stages = nnx.List(
            [
                Block(in_width, width, 2, rngs=rngs)
                for in_width, width in zip((channels, *widths[:-1]), widths, strict=True)
            ]
        )
        for _ in widths:
            columns = -(-columns // 2)
        inner = columns * widths[-1] + channels * _COARSE**2
        self.mix = linear(inner, 2 * features, rngs=rngs, dtype=jnp.float32)
        self.project = linear(2 * features, features, rngs=rngs, dtype=jnp.float32)
        self.log_scale = nnx.Param(jnp.full((1,), -math.log(TEMPERATURE), jnp.float32))

    def __call__(self, x: Float[Array, "batch row column channel"]) -> Float[Array, "batch feature"]:
        """Returns the vectors; columns keep their order, rows (the time of a log-mel) are averaged."""
        coarse = rearrange(resized(x, _COARSE), "b h w c -> b (h w c)")
        for stage in self.stages:
            x = stage(x)
        flat = rearrange(jnp.mean(x, axis=1), "b w c -> b (w c)")
        return unit(self.project(jax.nn.silu(self.mix(jnp.concatenate([flat, coarse], axis=-1)))))

    def scale(self) -> Float[Array, ""]:
        """Factor of cosines, at most SHARPEST."""
        return jnp.minimum(jnp.exp(self.log_scale[...][0]), SHARPEST)


def unit(x: Float[Array, "batch feature"]) -> Float[Array, "batch feature"]:
    """Vectors of unit length."""
    return x / jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))
