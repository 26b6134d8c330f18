"""The HiFi-GAN vocoder of AudioLDM: log-mel to waveform.

Transposed convolution of stride s, padding p and kernel w[0 .. K-1], written polyphase (one plain convolution that
makes s output samples per input frame): for the output o = s q + r,
(1)  y[s q + r] = sum_d x[q + d] w[r + p - s d],  over all d with 0 <= r + p - s d < K
(2)  length of y = s (T - 1) + K - 2 p

Structure, numerics and attribute names are those of transformers' SpeechT5HifiGan (without weight normalisation, which
is folded into the kernels when weights are converted). `dtype` is that of convolutions and activations.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from con360av_jax.config.settings import VocoderConfig
from con360av_jax.models.layers import uniform, zeros

Features = Float[Array, "batch time channel"]
FLOAT32 = jnp.dtype(jnp.float32)


def _kernel_init(gain: float) -> Callable[[Array, Sequence[int], DTypeLike], Array]:
    """Uniform with variance gain / fan_in; 1 keeps the signal's variance, torch's default (1/3) shrinks it."""
    return lambda key, shape, dtype: (3 * gain) ** 0.5 * uniform(key, shape, dtype)


class ConvTranspose1d(nnx.Module):
    """Upsampling by `stride`; `kernel` is (K, in, out), not flipped: w[k] of equation 1."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, *, rngs: nnx.Rngs, dtype: DTypeLike
    ):
        # K / stride taps reach each output sample, so the fan-in is smaller than the kernel's size by `stride`
        draw = _kernel_init(float(stride))
        self.kernel = nnx.Param(draw(rngs.params(), (kernel_size, in_channels, out_channels), FLOAT32))
        self.bias = nnx.Param(zeros(rngs.params(), (out_channels,), FLOAT32))
        self.dtype = jnp.dtype(dtype)
        self.stride = stride
        self.padding = (kernel_size - stride) // 2

    def __call__(self, x: Features) -> Float[Array, "batch long out"]:
        size, stride, padding = self.kernel.shape[0], self.stride, self.padding
        first = -((size - 1 - padding) // stride)
        last = (stride - 1 + padding) // stride
        taps = np.arange(stride) + padding - stride * np.arange(first, last + 1)[:, None]
        inside = jnp.asarray((taps >= 0) & (taps < size), jnp.float32)[:, :, None, None]
        polyphase = self.kernel[...][np.clip(taps, 0, size - 1)] * inside
        length = stride * (x.shape[1] - 1) + size - 2 * padding
        steps = -(-length // stride)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            rearrange(polyphase, "tap phase channel out -> tap channel (phase out)").astype(self.dtype),
            window_strides=(1,),
            padding=((-first, steps - x.shape[1] + last),),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        y = rearrange(y, "batch time (phase out) -> batch (time phase) out", phase=stride)[:, :length]
        return y + self.bias[...].astype(self.dtype)[None, None]


def _conv(
    in_channels: int,
    out_channels: int,
    size: int,
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike,
    dilation: int = 1,
    gain: float = 1.0,
) -> nnx.Conv:
    return nnx.Conv(
        in_channels,
        out_channels,
        kernel_size=(size,),
        padding=(((size - 1) * dilation // 2, (size - 1) * dilation // 2),),
        kernel_dilation=(dilation,),
        kernel_init=_kernel_init(gain),
        bias_init=zeros,
        dtype=jnp.dtype(dtype),
        rngs=rngs,
    )


class ResidualBlock(nnx.Module):
    """Pairs of a dilated and a plain convolution, each pair with a residual."""

    def __init__(self, channels: int, size: int, config: VocoderConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.slope = config.leaky_slope
        dilations = config.resblock_dilations
        self.convs1 = nnx.List(
            [_conv(channels, channels, size, rngs=rngs, dtype=dtype, dilation=dilation) for dilation in dilations]
        )
        self.convs2 = nnx.List([_conv(channels, channels, size, rngs=rngs, dtype=dtype) for _ in dilations])

    def __call__(self, x: Features) -> Features:
        for conv1, conv2 in zip(self.convs1, self.convs2, strict=True):
            hidden = conv1(jax.nn.leaky_relu(x, self.slope))
            x = x + conv2(jax.nn.leaky_relu(hidden, self.slope))
        return x


class HiFiGAN(nnx.Module):
    """Log-mel to waveform in [-1, 1]; `mean` and `scale` normalise the input where the checkpoint asks for it.

    Random weights keep the variance up to a small last layer: the sound is quiet, neither silent nor clipped.
    """

    def __init__(self, config: VocoderConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.config = config
        width = config.initial_width
        self.conv_pre = _conv(config.mel_bands, width, 7, rngs=rngs, dtype=dtype)
        self.upsampler, self.resblocks = nnx.List([]), nnx.List([])
        for rate, size in zip(config.upsample_rates, config.upsample_kernels, strict=True):
            self.upsampler.append(ConvTranspose1d(width, width // 2, size, rate, rngs=rngs, dtype=dtype))
            width //= 2
            for block_size in config.resblock_kernels:
                self.resblocks.append(ResidualBlock(width, block_size, config, rngs=rngs, dtype=dtype))
        # float32: bfloat16 would leave a waveform 8 bits.
        self.conv_post = _conv(width, 1, 7, rngs=rngs, dtype=FLOAT32, gain=1e-3)
        self.mean = nnx.Param(zeros(rngs.params(), (config.mel_bands,), FLOAT32))
        self.scale = nnx.Param(jnp.ones((config.mel_bands,), FLOAT32))

    def __call__(self, log_mel: Float[Array, "batch time mel"]) -> Float[Array, "batch sample"]:
        """Exactly time * (product of upsample_rates) samples; the original's last few extra ones are cut off."""
        x = log_mel
        if self.config.normalize_before:
            x = (x - self.mean[...][None, None]) / self.scale[...][None, None]
        kernels = len(self.config.resblock_kernels)
        x = self.conv_pre(x)
        for level, upsample in enumerate(self.upsampler):
            x = upsample(jax.nn.leaky_relu(x, self.config.leaky_slope))
            blocks = self.resblocks[level * kernels : (level + 1) * kernels]
            x = sum((block(x) for block in blocks[1:]), start=blocks[0](x)) / kernels
        # Kept from the reference: the last activation has torch's default slope, not the config's.
        x = self.conv_post(jax.nn.leaky_relu(x, 0.01))
        samples = log_mel.shape[1] * int(np.prod(self.config.upsample_rates))
        return jnp.tanh(x[:, :samples, 0])
