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

from con360av_jax.config.settings import MapEncoderConfig
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
        return recurrence(self.hidden.kernel[...].astype(from_input.dtype), from_input)


def _cell_step(kernel: Array, hidden: Array, cell: Array, inputs: Array) -> tuple[Array, Array]:
    """(h_t, c_t) of equations (1) and (2), where `inputs` is W_x x_t + b."""
    gates = (inputs + hidden @ kernel).astype(jnp.float32)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return (jax.nn.sigmoid(o) * jnp.tanh(cell)).astype(inputs.dtype), cell


@jax.custom_vjp
def recurrence(
    kernel: Float[Array, "channel gate"], inputs: Float[Array, "time row gate"]
) -> Float[Array, "time row channel"]:
    """Hidden states of all steps, starting from zeros.

    The kernel's gradient is one product over all steps. As part of the loop it would be summed over devices in each.
    """
    return _forward(kernel, inputs)[0]


def _forward(kernel: Array, inputs: Array) -> tuple[Array, tuple[Array, ...]]:
    zeros = jnp.zeros((inputs.shape[1], kernel.shape[0]), jnp.float32)

    def step(state: tuple[Array, Array], now: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        after = _cell_step(kernel, *state, now)
        return after, state

    start = (zeros.astype(inputs.dtype), zeros)
    (last, _), (hidden_before, cell_before) = jax.lax.scan(step, start, inputs)
    hidden = jnp.concatenate([hidden_before[1:], last[None]])
    return hidden, (kernel, inputs, hidden_before, cell_before)


def _backward(saved: tuple[Array, ...], gradient: Array) -> tuple[Array, Array]:
    kernel, *steps = saved
    zeros = jnp.zeros(saved[3].shape[1:], jnp.float32)

    def step(after: tuple[Array, Array], now: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        inputs, hidden, cell, from_output = now
        _, pull = jax.vjp(lambda *state: _cell_step(kernel, *state), hidden, cell, inputs)
        to_hidden, to_cell, to_inputs = pull((after[0] + from_output, after[1]))
        return (to_hidden, to_cell), to_inputs

    start = (zeros.astype(gradient.dtype), zeros)
    _, to_inputs = jax.lax.scan(step, start, (*steps, gradient), reverse=True)
    # A gate's sum is its input's: W_h's gradient needs no loop.
    return jnp.einsum("tri,tro->io", saved[2], to_inputs), to_inputs


recurrence.defvjp(_forward, _backward)


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
    # Not jnp.pad: its gradient cuts the batch axis as well, and devices then exchange zeros.
    x = jnp.concatenate([x[..., -1:, :], x, x[..., :1, :]], axis=3)
    return jnp.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)
