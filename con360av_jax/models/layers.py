"""The layers that U-Nets, connectors, Map Encoder and autoencoders share, with every numerical choice spelled out.

    GroupNorm    y = (x - mean_g) / sqrt(var_g + eps) * scale + bias                                               (1)
                 mean_g = E_c[mean_c],  var_g = E_c[var_c + (mean_c - mean_g)^2]      c: channels of group g       (2)
    GEGLU        y = (x W_v + b_v) * gelu(x W_g + b_g),  gelu exact (erf)                                          (3)
    time         e(t) = [cos(t w), sin(t w)],  w_i = 10000^(-i / half)                                             (4)
    doubling     y[2i] = w_0 x[i-1] + (w_1 + w_2) x[i],  y[2i+1] = (w_0 + w_1) x[i] + w_2 x[i+1]                   (5)
                 the 3-tap convolution of x with every element twice, along height and along width

Layout is channels-last; convolutions accept any number of leading axes.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int


def uniform(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """torch's default for Linear and Conv: uniform within +-1/sqrt(fan_in).

    A concrete key seeds NumPy, because XLA would compile one program per shape.
    """
    bound = math.prod(shape[:-1]) ** -0.5
    if isinstance(key, Tracer):
        return jax.random.uniform(key, tuple(shape), jnp.dtype(dtype), -bound, bound)
    draws = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jnp.asarray((2 * draws.random(tuple(shape), np.float32) - 1) * np.float32(bound), jnp.dtype(dtype))


def zeros(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Zeros, from NumPy for the same reason as `uniform` where the key is concrete."""
    if isinstance(key, Tracer):
        return jnp.zeros(tuple(shape), jnp.dtype(dtype))
    return jnp.asarray(np.zeros(tuple(shape), jnp.dtype(dtype)))


def linear(
    in_width: int, out_width: int, *, rngs: nnx.Rngs, dtype: DTypeLike, bias: bool = True, zero: bool = False
) -> nnx.Linear:
    """A dense layer with f32 parameters that computes in `dtype`; `zero` starts it at zero."""
    return nnx.Linear(
        in_width,
        out_width,
        use_bias=bias,
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(jnp.float32),
        kernel_init=zeros if zero else uniform,
        bias_init=zeros,
        rngs=rngs,
    )


def conv(
    in_width: int,
    out_width: int,
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike,
    stride: int = 1,
    padding: int = 1,
    zero: bool = False,
) -> nnx.Conv:
    """A 3x3 convolution over (height, width), padded symmetrically as in torch also at stride 2."""
    return nnx.Conv(
        in_width,
        out_width,
        kernel_size=(3, 3),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(jnp.float32),
        kernel_init=zeros if zero else uniform,
        bias_init=zeros,
        rngs=rngs,
    )


def doubled(
    convolution: nnx.Conv, x: Float[Array, "*lead height width channel"]
) -> Float[Array, "*lead double_height double_width out"]:
    """The 3x3 `convolution` of `x` with its pixels repeated to twice the height and width.

    On CPUs by equation (5), which multiplies 4/9 as often; elsewhere as written, in one large convolution.
    """
    if jax.default_backend() != "cpu":
        return convolution(_repeated(x))
    dtype = jnp.dtype(convolution.dtype or x.dtype)
    images = x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:]).astype(dtype)
    y = _doubled_by_phases(convolution.kernel[...].astype(jnp.float32), images)
    if convolution.bias is not None:
        y = y + per_channel(convolution.bias[...], y).astype(dtype)
    return y.reshape(*x.shape[:-3], *y.shape[-3:])


def _repeated(x: Array) -> Array:
    return repeat(x, "... h w c -> ... (h p) (w q) c", p=2, q=2)


def _convolved(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(1, 1),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


# Row p: which of a kernel's 3 taps fall on each of the 2 elements that output phase p reads.
_PHASES = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)


@jax.custom_vjp
def _doubled_by_phases(kernel: Array, x: Array) -> Array:
    """Equation (5): one 2x2 convolution with four times the outputs; each phase is a shifted window of its result."""
    height, width, out = x.shape[-3], x.shape[-2], kernel.shape[-1]
    by_phase = jnp.einsum("pah,qbw,hwio->abipqo", _PHASES, _PHASES, kernel)
    y = _convolved(x, rearrange(by_phase, "a b i p q o -> a b i (p q o)"))
    windows = [
        y[:, p : p + height, q : q + width, (2 * p + q) * out : (2 * p + q + 1) * out] for p in (0, 1) for q in (0, 1)
    ]
    return rearrange(jnp.stack(windows), "(p q) n h w o -> n (h p) (w q) o", p=2)


def _doubled_forward(kernel: Array, x: Array) -> tuple[Array, tuple[Array, Array]]:
    return _doubled_by_phases(kernel, x), (kernel, x)


def _doubled_backward(inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    # The derivative of the shifted windows takes ten times as long on CPUs as that of repeating and convolving.
    return jax.vjp(lambda kernel, x: _convolved(_repeated(x), kernel), *inputs)[1](gradient)


_doubled_by_phases.defvjp(_doubled_forward, _doubled_backward)


def per_channel(vector: Float[Array, "channel"], like: Float[Array, "..."]) -> Float[Array, "... channel"]:
    """`vector` in f32 with leading axes of length 1, so that it broadcasts against `like`."""
    return jnp.expand_dims(vector.astype(jnp.float32), tuple(range(like.ndim - 1)))


class GroupNorm(nnx.Module):
    """Equations (1) and (2) in f32, statistics per channel first (faster than per group on CPU); optional SiLU."""

    def __init__(self, width: int, groups: int, *, eps: float, dtype: DTypeLike):
        self.groups = groups
        self.eps = eps
        self.dtype = jnp.dtype(dtype)
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(
        self, x: Float[Array, "... channel"], *, axes: tuple[int, ...] = (-3, -2), silu: bool = False
    ) -> Float[Array, "... channel"]:
        """Normalises over `axes` and each group's channels; the default is (height, width)."""
        x = x.astype(jnp.float32)
        mean_c = jnp.mean(x, axes, keepdims=True)
        var_c = jnp.mean(jnp.square(x - mean_c), axes, keepdims=True)
        mean_g = self._group_mean(mean_c)
        var_g = self._group_mean(var_c + jnp.square(mean_c - mean_g))
        scale = per_channel(self.scale[...], x) * jax.lax.rsqrt(var_g + self.eps)
        y = x * scale + (per_channel(self.bias[...], x) - mean_g * scale)
        return (jax.nn.silu(y) if silu else y).astype(self.dtype)

    def _group_mean(self, x: Float[Array, "... channel"]) -> Float[Array, "... channel"]:
        grouped = x.reshape(*x.shape[:-1], self.groups, x.shape[-1] // self.groups)
        return repeat(jnp.mean(grouped, -1), "... group -> ... (group member)", member=x.shape[-1] // self.groups)


class LayerNorm(nnx.Module):
    """Layer normalisation over channels in f32, torch's default eps."""

    def __init__(self, width: int, *, dtype: DTypeLike, eps: float = 1e-5):
        self.eps = eps
        self.dtype = jnp.dtype(dtype)
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x: Float[Array, "... channel"]) -> Float[Array, "... channel"]:
        """Same shape, in the compute dtype."""
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, -1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + self.eps)
        y = centred * inverse * per_channel(self.scale[...], x) + per_channel(self.bias[...], x)
        return y.astype(self.dtype)


class GEGLU(nnx.Module):
    """Equation (3). Two products with halves of one kernel are faster than one product and a split."""

    def __init__(self, in_width: int, out_width: int, *, rngs: nnx.Rngs, dtype: DTypeLike, bias: bool = True):
        self.dtype = jnp.dtype(dtype)
        self.proj = linear(in_width, 2 * out_width, rngs=rngs, dtype=dtype, bias=bias)

    def __call__(self, x: Float[Array, "... in_channel"]) -> Float[Array, "... channel"]:
        """Value times gate."""
        value_kernel, gate_kernel = jnp.split(self.proj.kernel[...].astype(self.dtype), 2, axis=-1)
        value, gate = x @ value_kernel, x @ gate_kernel
        if self.proj.bias is not None:
            value_bias, gate_bias = jnp.split(per_channel(self.proj.bias[...], x).astype(self.dtype), 2, axis=-1)
            value, gate = value + value_bias, gate + gate_bias
        return value * jax.nn.gelu(gate, approximate=False)


class FeedForward(nnx.Module):
    """GEGLU to four times the width, then a dense layer to `out_width`."""

    def __init__(self, width: int, out_width: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.proj_in = GEGLU(width, 4 * width, rngs=rngs, dtype=dtype)
        self.proj_out = linear(4 * width, out_width, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "... in_channel"]) -> Float[Array, "... channel"]:
        """Acts on the last axis only."""
        return self.proj_out(self.proj_in(x))


class TimestepEmbedding(nnx.Module):
    """Embedding of the noise level: equation (4) and a two-layer MLP."""

    def __init__(self, width: int, out_width: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.width = width
        self.dtype = jnp.dtype(dtype)
        self.linear_1 = linear(width, out_width, rngs=rngs, dtype=dtype)
        self.linear_2 = linear(out_width, out_width, rngs=rngs, dtype=dtype)

    def __call__(self, timesteps: Int[Array, "batch"]) -> Float[Array, "batch channel"]:
        """Timesteps count from 0 (clean) to the schedule's last step."""
        return self.linear_2(jax.nn.silu(self.linear_1(sinusoid(timesteps, self.width).astype(self.dtype))))


def sinusoid(timesteps: Int[Array, "batch"], width: int) -> Float[Array, "batch channel"]:
    """Equation (4) in f32; `width` is even."""
    half = width // 2
    frequencies = jnp.exp(-math.log(10_000.0) / half * jnp.arange(half, dtype=jnp.float32))
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
