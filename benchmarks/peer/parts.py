"""PyTorch modules that the joint model adds to two U-Nets: connectors, environment encoders, Map Encoder and FiLM.

Written from the equations in con360av_jax/models (connector.py, environment.py, map_encoder.py, film.py), with blocks
of diffusers and torch.nn. Features are "batch channel frame height width"; audio is one frame whose height is time.
"""

import math
import warnings
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from con360av_jax.config.settings import AudioUNetConfig, ConnectorConfig, MapEncoderConfig, VideoUNetConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing diffusers warns about its own dependencies
    from diffusers.models.attention import FeedForward
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

ENVIRONMENT_EPS = 1e-5
TEMPORAL_HEADS = 8
MAP_CHANNELS = 2


class Modulation(NamedTuple):
    """Scale and shift of one site, broadcastable to "batch channel frame height width"."""

    scale: Tensor
    shift: Tensor


class Connector(nn.Module):
    """The other modality's sequence as a positional encoding of time, FiLM, self-attention, feed-forward."""

    def __init__(self, width: int, config: ConnectorConfig, groups: int):
        super().__init__()
        heads, head_width = width // config.head_width, config.head_width
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.sequence_ff = FeedForward(config.channels, width, activation_fn="geglu")
        self.sequence_norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=1e-5) for _ in range(3))
        self.attn1, self.attn2 = (Attention(width, heads=heads, dim_head=head_width) for _ in range(2))
        self.ff = FeedForward(width, width, activation_fn="geglu")
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Tensor, sequence: Tensor, time_axis: str, modulation: Modulation) -> Tensor:
        """Applies the connector; `sequence` (batch time channel) is the other modality's encoded environment."""
        frames, height = x.shape[2:4]
        unfold = {"pattern": "(b f) (h w) c -> b c f h w", "f": frames, "h": height}
        y = self.norm1(self.proj_in(rearrange(self.norm(x), "b c f h w -> (b f) (h w) c")))
        # Residuals start from the normalised value, as the published connectors' do.
        y = self.attn1(y + self._positions(sequence, x, time_axis)) + y
        y = rearrange(y, **unfold) * (1 + modulation.scale) + modulation.shift
        y = self.norm2(rearrange(y, "b c f h w -> (b f) (h w) c"))
        y = self.norm3(self.attn2(y) + y)
        return x + rearrange(self.proj_out(self.ff(y) + y), **unfold)

    def _positions(self, sequence: Tensor, x: Tensor, time_axis: str) -> Tensor:
        positions = self.sequence_norm(rearrange(self.sequence_ff(sequence), "b t c -> b c t"))
        steps = x.shape[2] if time_axis == "frame" else x.shape[3]
        positions = F.interpolate(positions, size=steps, mode="nearest")
        pattern = "b c t -> b c t 1 1" if time_axis == "frame" else "b c t -> b c 1 t 1"
        positions = rearrange(positions, pattern).expand(-1, -1, *x.shape[2:])
        return rearrange(positions, "b c f h w -> (b f) (h w) c")


class ClampedNorm(nn.Module):
    """(x - mean) / sqrt(max(var, eps)) * g over one axis of "row frame channel", in float32."""

    def __init__(self, width: int, axis: int):
        super().__init__()
        self.axis = axis
        self.g = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises; same shape, float32."""
        variance, mean = torch.var_mean(x.float(), dim=self.axis, correction=0, keepdim=True)
        return (x - mean) * variance.clamp(min=ENVIRONMENT_EPS).rsqrt() * self.g


class TemporalAttention(nn.Module):
    """Attention over frames, with the time in seconds added to its input and a bias from an MLP of the distance."""

    def __init__(self, width: int):
        super().__init__()
        inner = TEMPORAL_HEADS * (width // 4)
        self.norm = ClampedNorm(width, axis=-2)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        half = width // 2
        self.bias = nn.ModuleList([nn.Linear(1, half), nn.Linear(half, half), nn.Linear(half, TEMPORAL_HEADS)])

    def forward(self, x: Tensor) -> Tensor:
        """`x` is "row frame channel": each row is one pixel's history."""
        frames, width = x.shape[1:]
        y = self.norm(x + _seconds_encoding(frames, width, x))
        query, key, value = (
            rearrange(part, "b n (head d) -> b head n d", head=TEMPORAL_HEADS)
            for part in (self.to_q(y), *self.to_kv(y).chunk(2, dim=-1))
        )
        bias = self._distance_bias(frames, x).to(query.dtype)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.to_out(rearrange(y, "b head n d -> b n (head d)"))

    def _distance_bias(self, frames: int, like: Tensor) -> Tensor:
        steps = torch.arange(frames, device=like.device).to(self.norm.g)
        distance = steps[:, None] - steps[None]
        y = (distance.sign() * distance.abs().log1p())[..., None]
        y = F.silu(self.bias[1](F.silu(self.bias[0](y))))
        return rearrange(self.bias[2](y), "query key head -> head query key")


def _seconds_encoding(frames: int, width: int, like: Tensor) -> Tensor:
    half = width // 2
    exponents = torch.arange(half, device=like.device, dtype=torch.float32)
    frequencies = torch.exp(-math.log(10_000.0) / (half - 1) * exponents)
    seconds = torch.arange(frames, device=like.device, dtype=torch.float32) / 8
    angles = seconds[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(like.dtype)


class TemporalBlock(nn.Module):
    """Temporal attention, a feed-forward that also reads the previous frame, a convolution over delayed channels."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        inner = int(width * 4 * 2 / 3)
        self.attn = TemporalAttention(width)
        self.ff_in = nn.Linear(width, 2 * inner, bias=False)
        self.ff_norm = ClampedNorm(inner, axis=-1)
        self.ff_out = nn.Linear(inner, width, bias=False)
        self.norm = nn.GroupNorm(groups, width, eps=ENVIRONMENT_EPS)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """`x` is "(batch frame) channel height width"."""
        height, width = x.shape[2:]
        y = rearrange(x, "(b f) c h w -> (b h w) f c", f=frames)
        y = y + self.attn(y)
        value, gate = self.ff_in(y).chunk(2, dim=-1)
        z = value * F.gelu(gate)
        now = -(-z.shape[-1] // 2)
        z = torch.cat([z[..., :now], _delay(z[..., now:], 1)], dim=-1)
        y = y + self.ff_out(self.ff_norm(z))
        x = rearrange(y, "(b h w) f c -> (b f) c h w", h=height, w=width)
        parts = rearrange(self.conv(F.silu(self.norm(x))), "(b f) c h w -> b f (c h w)", f=frames).chunk(8, dim=-1)
        delayed = torch.cat([_delay(part, number) for number, part in enumerate(parts)], dim=-1)
        return x + rearrange(delayed, "b f (c h w) -> (b f) c h w", h=height, w=width)


def _delay(x: Tensor, frames: int) -> Tensor:
    """Delays "row frame channel" by `frames` steps, filled with zeros."""
    if frames >= x.shape[1]:
        return torch.zeros_like(x)
    return F.pad(x[:, : x.shape[1] - frames], (0, 0, frames, 0))


class EnvironmentEncoder(nn.Module):
    """A latent and its clean estimate as a sequence over the modality's own time."""

    def __init__(self, unet: AudioUNetConfig | VideoUNetConfig, config: ConnectorConfig):
        super().__init__()
        first, groups = unet.levels[0].width, unet.norm_groups
        widths = (first // 2, 2 * first, 4 * first)
        self.conv_in = nn.Conv2d(2 * unet.latent_channels, widths[0], 3, padding=1)
        self.resnets = nn.ModuleList(
            ResnetBlock2D(in_channels=a, out_channels=b, temb_channels=4 * first, groups=groups, eps=ENVIRONMENT_EPS)
            for a, b in zip(widths, widths[1:], strict=False)
        )
        temporal = widths[1:] if isinstance(unet, VideoUNetConfig) else ()
        self.temporal = nn.ModuleList(TemporalBlock(width, groups) for width in temporal)
        self.downsample = nn.Conv2d(widths[1], widths[1], 3, stride=2, padding=1)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=ENVIRONMENT_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`x` "batch channel frame height width" to (batch time channel), of unit length along time."""
        frames = x.shape[2]
        embedding = embedding.repeat_interleave(frames, dim=0)
        y = self.conv_in(rearrange(x, "b c f h w -> (b f) c h w"))
        for number, resnet in enumerate(self.resnets):
            y = self.downsample(y) if number else y
            y = resnet(y, embedding)
            y = self.temporal[number](y, frames) if len(self.temporal) else y
        y = self.conv_out(F.silu(self.norm_out(y))).float()
        pattern = "(b f) c h w -> b f c" if len(self.temporal) else "(b f) c h w -> b (f h) c"
        sequence = reduce(y, pattern, "mean", f=frames)
        return sequence / torch.linalg.vector_norm(sequence, dim=1, keepdim=True)


class MapEncoder(nn.Module):
    """Convolutions over each frame's saliency and BASD, an LSTM over time per cell."""

    def __init__(self, config: MapEncoderConfig):
        super().__init__()
        widths = (MAP_CHANNELS, *config.widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride) for a, b, stride in zip(widths, config.widths, config.strides, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(config.norm_groups, width, eps=1e-5) for width in config.widths)
        self.lstm = nn.LSTM(config.widths[-1], config.lstm_width)
        # Ours has one bias; torch's second one would double its learning rate.
        for name, parameter in self.lstm.named_parameters():
            if name == "bias_hh_l0":
                nn.init.zeros_(parameter).requires_grad_(False)

    def forward(self, maps: Tensor) -> Tensor:
        """`maps` "batch 2 frame height width" to features of fewer cells in the same layout."""
        batch, frames = maps.shape[0], maps.shape[2]
        x = rearrange(maps, "b c f h w -> (b f) c h w")
        for convolve, norm in zip(self.convs, self.norms, strict=True):
            x = F.pad(F.pad(x, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1), mode="replicate")
            x = F.silu(norm(convolve(x)))
        height, width = x.shape[2:]
        states, _ = self.lstm(rearrange(x, "(b f) c h w -> f (b h w) c", f=frames))
        return rearrange(states, "f (b h w) c -> b c f h w", b=batch, h=height, w=width)


class FiLM(nn.Module):
    """Scale and shift of one site from the Map Encoder's features."""

    def __init__(self, map_width: int, width: int):
        super().__init__()
        self.linear = nn.Linear(map_width, 2 * width)

    def forward(self, pooled: Tensor, mask: Tensor) -> Modulation:
        """From features on the site's grid; samples where `mask` is False get zeros."""
        both = self.linear(rearrange(pooled, "b c f h w -> b f h w c"))
        both = torch.where(
            rearrange(mask, "b -> b 1 1 1 1"), both, torch.zeros((), dtype=both.dtype, device=mask.device)
        )
        return Modulation(*rearrange(both, "b f h w c -> b c f h w").chunk(2, dim=1))
