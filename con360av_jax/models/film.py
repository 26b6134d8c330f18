"""FiLM: the Map Encoder's features, pooled to a connector's grid, scale and shift that connector's features.

    (scale, shift) = W pool(m) + b,   W = b = 0 at the start,   y -> y (1 + scale) + shift                          (1)

pool is torch's adaptive average pooling: bin i of n over N cells covers [floor(i N / n), ceil((i + 1) N / n)).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from con360av_jax.models.layers import linear


def pooling_matrix(source: int, target: int) -> np.ndarray:
    """(target, source) float32 averages of the bins above; bins overlap or repeat where the target is larger."""
    bins = np.arange(target)
    start, end = bins * source // target, -(-(bins + 1) * source // target)
    cells = np.arange(source)
    inside = (cells >= start[:, None]) & (cells < end[:, None])
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def pool(
    features: Float[Array, "batch frame height width channel"], grid: tuple[int, int, int]
) -> Float[Array, "batch frame2 height2 width2 channel"]:
    """Adaptive average pooling of a map sequence to `grid` = (frame, height, width)."""
    for axis, target in zip("fhw", grid, strict=True):
        source = features.shape[1 + "fhw".index(axis)]
        if source != target:
            matrix = jnp.asarray(pooling_matrix(source, target), features.dtype)
            features = jnp.einsum(f"bfhwc,n{axis}->b{'fhw'.replace(axis, 'n')}c", features, matrix)
    return features


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Modulation:
    """Scale and shift of one site, broadcastable to its features (batch, frame, height, width, channel)."""

    scale: Array
    shift: Array

    def __call__(
        self, y: Float[Array, "batch frame height width channel"]
    ) -> Float[Array, "batch frame height width channel"]:
        """Equation (1); zeros give `y` bit for bit."""
        return y * (jnp.asarray(1, y.dtype) + self.scale) + self.shift

    def along_height(self) -> "Modulation":
        """The same modulation over the height axis instead of the frame axis: audio has its time there."""
        return Modulation(*(rearrange(part, "b f 1 w c -> b 1 f w c") for part in (self.scale, self.shift)))


class FiLM(nnx.Module):
    """Equation (1)'s zero-initialised layer for one site."""

    def __init__(self, map_width: int, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.linear = linear(map_width, 2 * width, rngs=rngs, dtype=dtype, zero=True)

    def __call__(
        self,
        features: Float[Array, "batch frame height width map_channel"],
        grid: tuple[int, int, int],
        mask: Bool[Array, "batch"] | None,
    ) -> Modulation:
        """Scale and shift on `grid` = (frame, height, width); rows where `mask` is False get zeros."""
        modulation = self.linear(pool(features, grid))
        if mask is not None:
            keep = rearrange(mask, "b -> b 1 1 1 1")
            modulation = jnp.where(keep, modulation, jnp.zeros((), modulation.dtype))
        return Modulation(*jnp.split(modulation, 2, axis=-1))
