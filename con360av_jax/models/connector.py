"""Connectors (CMC-PE): one modality's features enter the other U-Net as a positional encoding of time.

    p = GroupNorm(FF(s)) at the nearest step of the other modality                                                 (1)
    y = LN1(W_in GroupNorm(x));   y = attn1(y + p) + y;   y = (1 + scale) y + shift                                (2)
    y = LN2(y);  y = attn2(y) + y;   y = LN3(y);  y = FF(y) + y;   output = x + W_out y                            (3)

s is the other modality's sequence; scale and shift come from the maps (film.py) or are absent.
Source: Ishii et al. 2024 (arXiv 2409.17550).
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from con360av_jax.config.settings import ConnectorConfig
from con360av_jax.models.attention import Attention
from con360av_jax.models.film import Modulation
from con360av_jax.models.layers import FeedForward, GroupNorm, LayerNorm, linear

TimeAxis = Literal["frame", "height"]
# Both GroupNorms of a connector; the environment encoders' have 1e-5.
CONNECTOR_EPS = 1e-6


def nearest_steps(source: int, target: int) -> np.ndarray:
    """For each of `target` steps the nearest of `source` steps, as torch's interpolation rounds (in float32)."""
    scaled = np.floor(np.arange(target, dtype=np.float32) * (np.float32(source) / np.float32(target)))
    return np.minimum(scaled.astype(np.int32), source - 1)


class Connector(nnx.Module):
    """Equations (1) to (3) at one site of one U-Net."""

    def __init__(
        self,
        width: int,
        config: ConnectorConfig,
        *,
        groups: int,
        time_axis: TimeAxis,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        self.time_axis: TimeAxis = time_axis
        heads = width // config.head_width
        self.norm = GroupNorm(width, groups, eps=CONNECTOR_EPS, dtype=dtype)
        self.proj_in = linear(width, width, rngs=rngs, dtype=dtype)
        self.sequence_ff = FeedForward(config.channels, width, rngs=rngs, dtype=dtype)
        self.sequence_norm = GroupNorm(width, groups, eps=CONNECTOR_EPS, dtype=dtype)
        self.norm1 = LayerNorm(width, dtype=dtype)
        self.attn1 = Attention(width, heads=heads, rngs=rngs, dtype=dtype)
        self.norm2 = LayerNorm(width, dtype=dtype)
        self.attn2 = Attention(width, heads=heads, rngs=rngs, dtype=dtype)
        self.norm3 = LayerNorm(width, dtype=dtype)
        self.ff = FeedForward(width, width, rngs=rngs, dtype=dtype)
        # As in the reference zero at the start: a fresh connector is the identity and leaves the frozen U-Net intact.
        # FiLM inside gets its gradient through this layer, so from the second step on.
        self.proj_out = linear(width, width, rngs=rngs, dtype=dtype, zero=True)

    def __call__(
        self,
        x: Float[Array, "batch frame height width channel"],
        sequence: Float[Array, "batch time sequence_channel"],
        modulation: Modulation | None = None,
    ) -> Float[Array, "batch frame height width channel"]:
        """`sequence` is the output of the other modality's environment encoder; time is `time_axis` of `x`."""
        frames, height = x.shape[1:3]
        # Kept from the reference: this norm runs over all frames of a clip.
        y = self.norm1(self.proj_in(self.norm(x, axes=(-4, -3, -2))))
        y = rearrange(y, "b f h w c -> b f (h w) c")
        # Kept from the reference: residuals start from the LayerNorm'd value, not from its input.
        y = self.attn1(y + self._positions(sequence, x)) + y
        if modulation is not None:
            y = modulation(rearrange(y, "b f (h w) c -> b f h w c", h=height))
            y = rearrange(y, "b f h w c -> b f (h w) c")
        y = self.norm2(y)
        y = self.attn2(y) + y
        y = self.norm3(y)
        y = self.ff(y) + y
        return x + rearrange(self.proj_out(y), "b f (h w) c -> b f h w c", f=frames, h=height)

    def _positions(self, sequence: Array, x: Array) -> Array:
        positions = self.sequence_norm(self.sequence_ff(sequence), axes=(-2,))
        steps = x.shape[1] if self.time_axis == "frame" else x.shape[2]
        positions = positions[:, nearest_steps(sequence.shape[1], steps)]
        pattern = "b t c -> b t 1 1 c" if self.time_axis == "frame" else "b t c -> b 1 t 1 c"
        positions = jnp.broadcast_to(rearrange(positions, pattern), x.shape)
        return rearrange(positions, "b f h w c -> b f (h w) c")
