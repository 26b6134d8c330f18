"""The latent-diffusion autoencoder of video frames (Stable Diffusion) and of log-mels (AudioLDM).

(1) moments  (mu, ln s^2) = quant_conv(encoder(x)),  ln s^2 clamped to [-30, 20]
(2) latent   z = scaling_factor * (mu + s * noise)
(3) decoding x = decoder(post_quant_conv(z / scaling_factor))

Structure, numerics and attribute names are those of diffusers' AutoencoderKL; layout is channels-last. `dtype` is that
of activations; norms and softmax are float32, and so are moments and decoded frames: bfloat16 has no more
levels than the bytes of a frame.
"""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from con360av_jax.config.settings import VAEConfig
from con360av_jax.models.attention import attention
from con360av_jax.models.layers import GroupNorm, conv, doubled, linear, uniform, zeros

FLOAT32 = jnp.dtype(jnp.float32)


class ResnetBlock(nnx.Module):
    """Two normalised convolutions with a residual; no timestep."""

    def __init__(self, in_channels: int, out_channels: int, config: VAEConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.norm1 = GroupNorm(in_channels, config.norm_groups, eps=config.norm_eps, dtype=dtype)
        self.conv1 = conv(in_channels, out_channels, rngs=rngs, dtype=dtype)
        self.norm2 = GroupNorm(out_channels, config.norm_groups, eps=config.norm_eps, dtype=dtype)
        self.conv2 = conv(out_channels, out_channels, rngs=rngs, dtype=dtype)
        self.conv_shortcut = nnx.data(
            None if in_channels == out_channels else linear(in_channels, out_channels, rngs=rngs, dtype=dtype)
        )

    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height width out"]:
        hidden = self.conv1(self.norm1(x, silu=True))
        hidden = self.conv2(self.norm2(hidden, silu=True))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nnx.Module):
    """Self-attention over all pixels with a single head as wide as the features."""

    def __init__(self, channels: int, config: VAEConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.group_norm = GroupNorm(channels, config.norm_groups, eps=config.norm_eps, dtype=dtype)
        self.to_q = linear(channels, channels, rngs=rngs, dtype=dtype)
        self.to_k = linear(channels, channels, rngs=rngs, dtype=dtype)
        self.to_v = linear(channels, channels, rngs=rngs, dtype=dtype)
        self.to_out = nnx.List([linear(channels, channels, rngs=rngs, dtype=dtype)])

    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height width channel"]:
        pixels = rearrange(self.group_norm(x), "batch height width channel -> batch (height width) 1 channel")
        query, key, value = self.to_q(pixels), self.to_k(pixels), self.to_v(pixels)
        out = self.to_out[0](attention(query, key, value))
        return x + rearrange(out, "batch (height width) 1 channel -> batch height width channel", height=x.shape[1])


class Downsample(nnx.Module):
    """Halves height and width; pads only below and to the right, unlike the U-Nets' downsampling."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.conv = nnx.Conv(
            channels,
            channels,
            kernel_size=(3, 3),
            strides=(2, 2),
            padding=((0, 1), (0, 1)),
            kernel_init=uniform,
            bias_init=zeros,
            dtype=jnp.dtype(dtype),
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch half_h half_w channel"]:
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles height and width by repetition, then convolves."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.conv = conv(channels, channels, rngs=rngs, dtype=dtype)

    def __call__(
        self, x: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch double_h double_w channel"]:
        return doubled(self.conv, x)


class DownBlock(nnx.Module):
    """One level of the encoder."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: VAEConfig,
        downsample: bool,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        widths = (in_channels,) + (out_channels,) * (config.layers - 1)
        self.resnets = nnx.List([ResnetBlock(width, out_channels, config, rngs=rngs, dtype=dtype) for width in widths])
        self.downsamplers = nnx.List([Downsample(out_channels, rngs=rngs, dtype=dtype)] if downsample else [])

    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch low_h low_w out"]:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpBlock(nnx.Module):
    """One level of the decoder; it has one residual block more than the encoder's."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: VAEConfig,
        upsample: bool,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        widths = (in_channels,) + (out_channels,) * config.layers
        self.resnets = nnx.List([ResnetBlock(width, out_channels, config, rngs=rngs, dtype=dtype) for width in widths])
        self.upsamplers = nnx.List([Upsample(out_channels, rngs=rngs, dtype=dtype)] if upsample else [])

    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch high_h high_w out"]:
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class MidBlock(nnx.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, config: VAEConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.resnets = nnx.List([ResnetBlock(channels, channels, config, rngs=rngs, dtype=dtype) for _ in range(2)])
        self.attentions = nnx.List([Attention(channels, config, rngs=rngs, dtype=dtype)])

    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height width channel"]:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nnx.Module):
    """Frame to twice the latent channels."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        widths = config.widths
        self.conv_in = conv(config.in_channels, widths[0], rngs=rngs, dtype=dtype)
        self.down_blocks = nnx.List(
            [
                DownBlock(widths[max(level - 1, 0)], width, config, level < len(widths) - 1, rngs=rngs, dtype=dtype)
                for level, width in enumerate(widths)
            ]
        )
        self.mid_block = MidBlock(widths[-1], config, rngs=rngs, dtype=dtype)
        self.conv_norm_out = GroupNorm(widths[-1], config.norm_groups, eps=config.norm_eps, dtype=FLOAT32)
        self.conv_out = conv(widths[-1], 2 * config.latent_channels, rngs=rngs, dtype=FLOAT32)

    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch low_h low_w moments"]:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(self.mid_block(x), silu=True))


class Decoder(nnx.Module):
    """Latent to frame."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        widths = config.widths[::-1]
        self.conv_in = conv(config.latent_channels, widths[0], rngs=rngs, dtype=dtype)
        self.mid_block = MidBlock(widths[0], config, rngs=rngs, dtype=dtype)
        self.up_blocks = nnx.List(
            [
                UpBlock(widths[max(level - 1, 0)], width, config, level < len(widths) - 1, rngs=rngs, dtype=dtype)
                for level, width in enumerate(widths)
            ]
        )
        self.conv_norm_out = GroupNorm(widths[-1], config.norm_groups, eps=config.norm_eps, dtype=FLOAT32)
        self.conv_out = conv(widths[-1], config.in_channels, rngs=rngs, dtype=FLOAT32)

    def __call__(self, z: Float[Array, "batch height width channel"]) -> Float[Array, "batch high_h high_w out"]:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(x, silu=True))


class AutoencoderKL(nnx.Module):
    """Encodes to UNSCALED moments, decodes UNSCALED latents; `base.codecs` applies the scaling factor (2, 3)."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs, dtype=dtype)
        self.decoder = Decoder(config, rngs=rngs, dtype=dtype)
        moments = 2 * config.latent_channels
        self.quant_conv = linear(moments, moments, rngs=rngs, dtype=FLOAT32)
        self.post_quant_conv = linear(config.latent_channels, config.latent_channels, rngs=rngs, dtype=dtype)

    def encode(
        self, x: Float[Array, "batch height width channel"]
    ) -> tuple[Float[Array, "batch low_h low_w latent"], Float[Array, "batch low_h low_w latent"]]:
        """Mean and standard deviation (equation 1) of frames in [-1, 1], or of log-mels (batch time mel 1)."""
        mean, log_variance = jnp.split(self.quant_conv(self.encoder(x)), 2, axis=-1)
        return mean, jnp.exp(0.5 * jnp.clip(log_variance, -30.0, 20.0))

    def decode(self, z: Float[Array, "batch height width latent"]) -> Float[Array, "batch high_h high_w channel"]:
        """Frames or log-mels of unscaled latents."""
        return self.decoder(self.post_quant_conv(z))
