"""Environment encoders: summarise each modality for the other as a sequence over its own time.

    s = conv_out(silu(norm(block_2(down(block_1(conv_in([noisy latent, clean estimate])))))))                      (1)
    sequence = mean over space of s, divided by its L2 norm along time                                             (2)
    mean_w sum_b k_b x[w + b - 1]  =  sum_b k_b (mean_w x[w + b - 1]),  x zero outside                             (3)

By (3) the mean of a convolution is a convolution of three means: exact, and cheap where space is large.
For video, each residual block is followed by a temporal block (attention over frames with a learned bias of
their distance, a feed-forward, and a convolution whose channels are delayed by 0 to 7 frames).
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from con360av_jax.config.settings import AudioUNetConfig, ConnectorConfig, VideoUNetConfig
from con360av_jax.models.connector import TimeAxis
from con360av_jax.models.layers import GEGLU, GroupNorm, conv, linear, per_channel
from con360av_jax.models.resnet import Downsample, ResnetBlock

# Eps of the reference's GroupNorms here, and the smallest variance in ClampedNorm.
ENVIRONMENT_EPS = 1e-5
TEMPORAL_HEADS = 8
# The temporal encoding counts seconds at this rate, independent of the clip's own rate.
REFERENCE_FRAMES_PER_SECOND = 8


class ClampedNorm(nnx.Module):
    """(x - mean) / sqrt(max(var, eps)) * scale over `axis`; f32, no bias."""

    def __init__(self, width: int, *, axis: int, dtype: DTypeLike):
        self.axis = axis
        self.dtype = jnp.dtype(dtype)
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))

    def __call__(self, x: Float[Array, "... channel"]) -> Float[Array, "... channel"]:
        """Same shape."""
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, self.axis, keepdims=True)
        variance = jnp.mean(jnp.square(centred), self.axis, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.maximum(variance, ENVIRONMENT_EPS))
        return (centred * inverse * per_channel(self.scale[...], x)).astype(self.dtype)


class TemporalAttention(nnx.Module):
    """Attention over frames, with the time in seconds added to its input and a bias from an MLP of the distance."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.dtype = jnp.dtype(dtype)
        inner = TEMPORAL_HEADS * (width // 4)
        # Kept from the reference: weights were trained with this norm over time, not over channels.
        self.norm = ClampedNorm(width, axis=-2, dtype=dtype)
        self.to_q = linear(width, inner, rngs=rngs, dtype=dtype, bias=False)
        self.to_kv = linear(width, 2 * inner, rngs=rngs, dtype=dtype, bias=False)
        self.to_out = linear(inner, width, rngs=rngs, dtype=dtype, bias=False, zero=True)
        bias_widths = ((1, width // 2), (width // 2, width // 2), (width // 2, TEMPORAL_HEADS))
        self.bias = nnx.List([linear(a, b, rngs=rngs, dtype=dtype) for a, b in bias_widths])

    def __call__(self, x: Float[Array, "row frame channel"]) -> Float[Array, "row frame channel"]:
        """Each row is one pixel's history."""
        frames, width = x.shape[1:]
        y = self.norm(x + jnp.asarray(_seconds_encoding(frames, width), x.dtype)[None])
        query, key, value = (
            rearrange(part, "b n (head d) -> b n head d", head=TEMPORAL_HEADS)
            for part in (self.to_q(y), *jnp.split(self.to_kv(y), 2, axis=-1))
        )
        query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + self._distance_bias(frames)[None], axis=-1).astype(value.dtype)
        return self.to_out(rearrange(jnp.einsum("bhqk,bkhd->bqhd", weights, value), "b n head d -> b n (head d)"))

    def _distance_bias(self, frames: int) -> Array:
        distance = np.arange(frames)[:, None] - np.arange(frames)[None]
        logarithmic = np.sign(distance) * np.log1p(np.abs(distance))
        y = jnp.asarray(logarithmic[..., None], self.dtype)
        for layer in list(self.bias)[:-1]:
            y = jax.nn.silu(layer(y))
        return rearrange(self.bias[-1](y), "query key head -> head query key").astype(jnp.float32)


def _seconds_encoding(frames: int, width: int) -> np.ndarray:
    seconds = np.arange(frames) / REFERENCE_FRAMES_PER_SECOND
    half = width // 2
    angles = seconds[:, None] * np.exp(-np.log(10_000.0) / (half - 1) * np.arange(half))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


class TemporalFeedForward(nnx.Module):
    """GEGLU whose second half of channels comes from the frame before, a norm over channels, a projection."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        inner = int(width * 4 * 2 / 3)
        self.proj_in = GEGLU(width, inner, rngs=rngs, dtype=dtype, bias=False)
        self.norm = ClampedNorm(inner, axis=-1, dtype=dtype)
        self.proj_out = linear(inner, width, rngs=rngs, dtype=dtype, bias=False)

    def __call__(self, x: Float[Array, "row frame channel"]) -> Float[Array, "row frame channel"]:
        """Each row is one pixel's history."""
        y = self.proj_in(x)
        now, before = jnp.split(y, [-(-y.shape[-1] // 2)], axis=-1)
        return self.proj_out(self.norm(jnp.concatenate([now, _delay(before, 1, axis=1)], axis=-1)))


class TemporalBlock(nnx.Module):
    """Temporal attention, temporal feed-forward, and a convolution over delayed channels; all residual."""

    def __init__(self, width: int, *, groups: int, rngs: nnx.Rngs, dtype: DTypeLike):
        self.attn = TemporalAttention(width, rngs=rngs, dtype=dtype)
        self.ff = TemporalFeedForward(width, rngs=rngs, dtype=dtype)
        self.norm = GroupNorm(width, groups, eps=ENVIRONMENT_EPS, dtype=dtype)
        self.conv = conv(width, width, rngs=rngs, dtype=dtype, zero=True)

    def __call__(
        self, x: Float[Array, "batch frame height width channel"]
    ) -> Float[Array, "batch frame height width channel"]:
        """Same shape."""
        batch, _, height, width, _ = x.shape
        y = rearrange(x, "b f h w c -> (b h w) f c")
        y = y + self.attn(y)
        y = y + self.ff(y)
        x = rearrange(y, "(b h w) f c -> b f h w c", b=batch, h=height, w=width)
        delayed = jnp.split(self.conv(self.norm(x, silu=True)), 8, axis=-1)
        return x + jnp.concatenate([_delay(part, frames, axis=1) for frames, part in enumerate(delayed)], axis=-1)


def _delay(x: Array, frames: int, axis: int) -> Array:
    """Moves `x` by `frames` steps into the future; zeros come in."""
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (frames, -frames, 0)
    if frames >= x.shape[axis]:
        return jnp.zeros_like(x)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), padding)


class EnvironmentEncoder(nnx.Module):
    """Equations (1) and (2) for one modality."""

    def __init__(
        self,
        unet: AudioUNetConfig | VideoUNetConfig,
        config: ConnectorConfig,
        *,
        time_axis: TimeAxis,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        first, groups = unet.levels[0].width, unet.norm_groups
        widths = (first // 2, 2 * first, 4 * first)
        self.time_axis: TimeAxis = time_axis
        self.conv_in = conv(2 * unet.latent_channels, widths[0], rngs=rngs, dtype=dtype)
        self.resnets = nnx.List(
            [
                ResnetBlock(a, b, embedding_width=4 * first, groups=groups, eps=ENVIRONMENT_EPS, rngs=rngs,
                            dtype=dtype, zero=True)
                for a, b in pairwise(widths)
            ]
        )  # fmt: skip
        temporal_widths = widths[1:] if isinstance(unet, VideoUNetConfig) else ()
        self.temporal = nnx.List(
            [TemporalBlock(width, groups=groups, rngs=rngs, dtype=dtype) for width in temporal_widths]
        )
        self.downsample = Downsample(widths[1], rngs=rngs, dtype=dtype)
        self.norm_out = GroupNorm(widths[-1], groups, eps=ENVIRONMENT_EPS, dtype=dtype)
        self.conv_out = conv(widths[-1], config.channels, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        x: Float[Array, "batch frame height width channel"],
        embedding: Float[Array, "batch embedding"],
        stages: list[Array] | None = None,
    ) -> Float[Array, "batch time sequence_channel"]:
        """Returns the sequence. `stages`, if given, is filled with the output of each stage of equation (1)."""
        y = self.conv_in(x)
        found = [y]
        for number, resnet in enumerate(self.resnets):
            if number:
                y = self.downsample(y)
                found.append(y)
            y = resnet(y, embedding)
            y = self.temporal[number](y) if self.temporal else y
            found.append(y)
        y = self.norm_out(y, silu=True)
        if stages is not None:
            stages += [*found, self.conv_out(y)]
        sequence = mean_of_convolution(self.conv_out, y, self.time_axis)
        # Kept from the reference: the norm is taken along time, not over channels.
        norm = jnp.sqrt(jnp.sum(jnp.square(sequence), axis=1, keepdims=True))
        return (sequence / norm).astype(x.dtype)


def mean_of_convolution(
    convolution: nnx.Conv, x: Float[Array, "batch frame height width channel"], time_axis: TimeAxis
) -> Float[Array, "batch time out"]:
    """Mean over space of a 3x3 `convolution` of `x`, by equation (3), f32; audio is one frame whose height is time."""
    dtype = jnp.dtype(convolution.dtype or x.dtype)
    means = _tap_means(x.astype(jnp.float32), axis=-2)
    if time_axis == "frame":
        means = _tap_means(means, axis=-3)
    beyond = 0 if time_axis == "frame" else 1
    y = jax.lax.conv_general_dilated(
        rearrange(means, "b f h tap c -> (b f) h tap c").astype(dtype),
        convolution.kernel[...].astype(dtype),
        window_strides=(1, 1),
        padding=((beyond, beyond), (0, 0)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    y = rearrange(y, "(b f) h 1 c -> b (f h) c", b=x.shape[0]).astype(jnp.float32)
    return y if convolution.bias is None else y + per_channel(convolution.bias[...], y)


def _tap_means(x: Array, axis: int) -> Array:
    """Mean input of each of a kernel's three taps along `axis`, padded by one zero at both ends."""
    first, last = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, x.shape[axis] - 1))
    total = jnp.sum(x, axis, keepdims=True)
    return jnp.concatenate([total - last, total, total - first], axis) / x.shape[axis]
