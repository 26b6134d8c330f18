"""Residual blocks with a timestep embedding, and the layers that halve and double height and width.

y = skip(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + W silu(e))))                                            (1)
"""

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from con360av_jax.models.layers import GroupNorm, conv, doubled, linear


class ResnetBlock(nnx.Module):
    """Equation (1), applied to each frame; skip is a 1x1 projection where the width changes."""

    def __init__(
        self,
        in_width: int,
        out_width: int,
        *,
        embedding_width: int,
        groups: int,
        eps: float,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        zero: bool = False,
    ):
        self.norm1 = GroupNorm(in_width, groups, eps=eps, dtype=dtype)
        self.conv1 = conv(in_width, out_width, rngs=rngs, dtype=dtype)
        self.time_emb_proj = linear(embedding_width, out_width, rngs=rngs, dtype=dtype)
        self.norm2 = GroupNorm(out_width, groups, eps=eps, dtype=dtype)
        self.conv2 = conv(out_width, out_width, rngs=rngs, dtype=dtype, zero=zero)
        self.conv_shortcut = nnx.data(
            None if in_width == out_width else linear(in_width, out_width, rngs=rngs, dtype=dtype)
        )

    def __call__(
        self, x: Float[Array, "batch frame height width in_channel"], embedding: Float[Array, "batch embedding"]
    ) -> Float[Array, "batch frame height width channel"]:
        """All frames of a clip share the timestep embedding."""
        shift = self.time_emb_proj(jax.nn.silu(embedding))
        y = self.conv1(self.norm1(x, silu=True)) + shift[:, None, None, None]
        y = self.conv2(self.norm2(y, silu=True))
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nnx.Module):
    """Halves height and width by a strided convolution."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.conv = conv(width, width, stride=2, rngs=rngs, dtype=dtype)

    def __call__(
        self, x: Float[Array, "batch frame height width channel"]
    ) -> Float[Array, "batch frame half_height half_width channel"]:
        """Odd sizes round up."""
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles height and width by repeating pixels, then a convolution."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.conv = conv(width, width, rngs=rngs, dtype=dtype)

    def __call__(
        self, x: Float[Array, "batch frame height width channel"]
    ) -> Float[Array, "batch frame double_height double_width channel"]:
        """Nearest neighbour."""
        return doubled(self.conv, x)
