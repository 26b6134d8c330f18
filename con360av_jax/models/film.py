"""FiLM: the Map Encoder's features, pooled to a connector's grid, scale and shift that connector's features.

    (scale, shift) = W pool(m) + b,   W = b = 0 at the start,   y -> y (1 + scale) + shift                          (1)

For video, pool is torch's adaptive average pooling: bin i of n over N cells covers
[floor(i N / n), ceil((i + 1) N / n)). For audio it averages over the panorama and aligns in time. A clip of F frames
lasts T latent steps, which the U-Net pads; frame j covers the steps [j T / F, (j + 1) T / F). A site whose cells cover
S steps each gets

    pool(m)_i = mean of m over the steps [i S, min((i + 1) S, T))                                                  (2)

where a cell beyond T, which lies in the padding, repeats the last one before.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from con360av_jax.config.shapes import padded_time
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


def time_shares(frames: int, cells: int, steps: int) -> np.ndarray:
    """(cells, frames) float32: shares of the frames in each cell of equation (2); T = `steps`."""
    width = padded_time(steps) // cells
    last = (steps - 1) // width
    cell = np.minimum(np.arange(cells), last)[:, None]
    # In units of 1 / F of a latent step all borders are whole numbers.
    start, end = cell * width * frames, np.minimum((cell + 1) * width, steps) * frames
    frame = np.arange(frames) * steps
    overlap = np.maximum(np.minimum(end, frame + steps) - np.maximum(start, frame), 0)
    return (overlap / (end - start)).astype(np.float32)


def pool_time(
    features: Float[Array, "batch frame height width channel"], cells: int, steps: int
) -> Float[Array, "batch 1 cell 1 channel"]:
    """Equation (2) for a site of `cells` cells: T = `steps`. As in audio's features, height is time."""
    matrix = jnp.asarray(time_shares(features.shape[1], cells, steps), features.dtype)
    everywhere = pool(features, (features.shape[1], 1, 1))
    return rearrange(jnp.einsum("bfhwc,nf->bnhwc", everywhere, matrix), "b n 1 1 c -> b 1 n 1 c")


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


class FiLM(nnx.Module):
    """Equation (1)'s zero-initialised layer for one site."""

    def __init__(self, map_width: int, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.linear = linear(map_width, 2 * width, rngs=rngs, dtype=dtype, zero=True)

    def __call__(
        self,
        pooled: Float[Array, "batch frame height width map_channel"],
        mask: Bool[Array, "batch"] | None,
    ) -> Modulation:
        """Scale and shift from features on the site's grid; rows where `mask` is False get zeros."""
        modulation = self.linear(pooled)
        if mask is not None:
            keep = rearrange(mask, "b -> b 1 1 1 1")
            modulation = jnp.where(keep, modulation, jnp.zeros((), modulation.dtype))
        return Modulation(*jnp.split(modulation, 2, axis=-1))
