"""AnimateDiff's motion module: every pixel attends over time, twice, with a sinusoidal encoding of the frame number.

A fresh one is the identity: its output projection is zero (Guo et al. 2024, section 4.2).

p[t, 2i] = sin(t w_i),  p[t, 2i+1] = cos(t w_i),  w_i = 10000^(-2i / width)                                    (1)
"""

import math

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from con360av_jax.errors import ConfigError
from con360av_jax.models.attention import TransformerBlock
from con360av_jax.models.layers import GroupNorm, linear


def frame_positions(frames: int, width: int) -> np.ndarray:
    """Equation (1): (frames, width) float32."""
    frequencies = np.exp(np.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = np.arange(frames)[:, None] * frequencies
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(frames, width).astype(np.float32)


class MotionModule(nnx.Module):
    """A transformer over frames for each pixel, added to its input."""

    def __init__(self, width: int, *, heads: int, groups: int, max_frames: int, rngs: nnx.Rngs, dtype: DTypeLike):
        self.max_frames = max_frames
        self.norm = GroupNorm(width, groups, eps=1e-6, dtype=dtype)
        self.proj_in = linear(width, width, rngs=rngs, dtype=dtype)
        self.transformer_blocks = nnx.List([TransformerBlock(width, heads=heads, rngs=rngs, dtype=dtype)])
        self.proj_out = linear(width, width, rngs=rngs, dtype=dtype, zero=True)

    def __call__(
        self, x: Float[Array, "batch frame height width channel"]
    ) -> Float[Array, "batch frame height width channel"]:
        """Raises ConfigError for more frames than the positional encoding was trained with."""
        frames, height, width = x.shape[1], x.shape[2], x.shape[-1]
        if frames > self.max_frames:
            raise ConfigError(f"{frames} frames given, but motion modules know {self.max_frames}: shorten the clip")
        # The norm runs over all frames of a clip, not per frame.
        y = self.proj_in(self.norm(x, axes=(-4, -3, -2)))
        y = rearrange(y, "b f h w c -> b (h w) f c")
        positions = jnp.asarray(frame_positions(frames, width), y.dtype)[None, None]
        for block in self.transformer_blocks:
            y = block(y, positions=positions)
        return x + rearrange(self.proj_out(y), "b (h w) f c -> b f h w c", h=height)
