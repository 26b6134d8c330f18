"""The Map Encoder: saliency and BASD panoramas of each frame through 2-D convolutions, then an LSTM over time.

    i, f, g, o = W_x x_t + W_h h_{t-1} + b                                                                         (1)
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g);   h_t = sigmoid(o) tanh(c_t)                                    (2)

The panorama wraps around in longitude and is replicated at the poles, so that rolling it by whole output cells rolls
the output. Every cell of the map has its own LSTM state and shares the weights. Gate order is torch's.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from con360av_jax.config import MapEncoderConfig
from con360av_jax.models.layers import GroupNorm, conv, linear

# Saliency and BASD.
MAP_CHANNELS = 2
NORM_EPS = 1e-5


class LSTM(nnx.Module):
    """Equations (1) and (2) over the first axis by `lax.scan`; one bias (torch's two summed)."""

    def __init__(self, in_width: int, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.input = linear(in_width, 4 * width, rngs=rngs, dtype=dtype)
        self.hidden = linear(width, 4 * width, rngs=rngs, dtype=dtype, bias=False)

    def __call__(self, x: Float[Array, "time row in_channel"]) -> Float[Array, "time row channel"]:
        """Hidden states of all steps, starting from zeros; the cell state is kept in f32."""
        from_input = self.input(x)
        zeros = jnp.zeros((*x.shape[1:-1], from_input.shape[-1] // 4), jnp.float32)

        def step(state: tuple[Array, Array], inputs: Array) -> tuple[tuple[Array, Array], Array]:
            hidden, cell = state
            gates = (inputs + self.hidden(hidden)).astype(jnp.float32)
            i, f, g, o = jnp.split(gates, 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            hidden = (jax.nn.sigmoid(o) * jnp.tanh(cell)).astype(inputs.dtype)
            return (hidden, cell), hidden

        return jax.lax.scan(step, (zeros.astype(from_input.dtype), zeros), from_input)[1]


class MapEncoder(nnx.Module):
    """Convolutions per frame and an LSTM per cell."""

    def __init__(self, config: MapEncoderConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        in_widths = (MAP_CHANNELS, *config.widths[:-1])
        self.dtype = jnp.dtype(dtype)
        self.convs = nnx.List(
            [
                conv(in_width, width, stride=stride, padding=0, rngs=rngs, dtype=dtype)
                for in_width, width, stride in zip(in_widths, config.widths, config.strides, strict=True)
            ]
        )
        self.norms = nnx.List(
            [GroupNorm(width, config.norm_groups, eps=NORM_EPS, dtype=dtype) for width in config.widths]
        )
        self.lstm = LSTM(config.widths[-1], config.lstm_width, rngs=rngs, dtype=dtype)

    def __call__(
        self, maps: Float[Array, "batch frame height width 2"]
    ) -> Float[Array, "batch frame cell_height cell_width channel"]:
        """One feature vector per cell and frame, aware of the frames before it."""
        x = maps.astype(self.dtype)
        for convolve, norm in zip(self.convs, self.norms, strict=True):
            x = norm(convolve(pad_panorama(x)), silu=True)
        batch, _, height, width, _ = x.shape
        states = self.lstm(rearrange(x, "b f h w c -> f (b h w) c"))
        return rearrange(states, "f (b h w) c -> b f h w c", b=batch, h=height, w=width)


def pad_panorama(
    x: Float[Array, "batch frame height width channel"],
) -> Float[Array, "batch frame height_2 width_2 channel"]:
    """One more pixel on every side: around the globe in longitude, replicated beyond the poles."""
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1), (0, 0)), mode="wrap")
    return jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
