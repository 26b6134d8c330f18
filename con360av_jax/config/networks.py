"""The settings that decide the shape of a parameter: one frozen dataclass per network, with cross-field checks."""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from con360av_jax.errors import ConfigError

T = TypeVar("T")


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class PerModality(Generic[T]):
    """One value for the sound and one for the picture."""

    audio: T
    video: T


@dataclass(frozen=True, kw_only=True)
class UNetLevel:
    """One resolution of a U-Net."""

    width: int
    """Channels."""
    layers: int = 2
    """Residual blocks in the down block; the up block has one more."""
    attention: bool = True
    """Whether a spatial transformer follows each residual block."""
    heads: int = 8
    """Attention heads."""


@dataclass(frozen=True, kw_only=True)
class AudioUNetConfig:
    """AudioLDM's U-Net: a CLAP class embedding concatenated to the time embedding, second attention on itself."""

    levels: tuple[UNetLevel, ...]
    latent_channels: int = 8
    class_width: int = 512
    """Width of the CLAP text embedding."""
    norm_groups: int = 32
    norm_eps: float = 1e-5

    def __post_init__(self):
        _require_four_levels(self.levels, self.norm_groups)


@dataclass(frozen=True, kw_only=True)
class VideoUNetConfig:
    """Stable Diffusion 1.5's U-Net with AnimateDiff motion modules after every block's layers."""

    levels: tuple[UNetLevel, ...]
    latent_channels: int = 4
    context_width: int = 768
    """Width of the CLIP hidden states that cross-attention reads."""
    norm_groups: int = 32
    norm_eps: float = 1e-5
    motion_heads: int = 8
    motion_norm_groups: int = 32
    motion_max_frames: int = 32
    """Length of the temporal positional encoding, frames."""
    motion_mid_block: bool = True
    """Whether the middle block has a motion module too."""

    def __post_init__(self):
        _require_four_levels(self.levels, self.norm_groups)


def _require_four_levels(levels: tuple[UNetLevel, ...], norm_groups: int) -> None:
    require(len(levels) == 4, f"connectors sit at the two deepest of 4 levels, but {len(levels)} levels were given")
    for number, level in enumerate(levels):
        for name, divisor in (("norm_groups", norm_groups), ("heads", level.heads)):
            require(
                level.width % divisor == 0,
                f"level {number}: width {level.width} is not divisible by {name}={divisor}",
            )


@dataclass(frozen=True, kw_only=True)
class ConnectorConfig:
    """CMC-PE connectors and the environment encoders that feed them."""

    channels: int = 1280
    """Channels of the sequence that one modality sends to the other."""
    head_width: int = 8
    """Channels per attention head in a connector."""


@dataclass(frozen=True, kw_only=True)
class MapEncoderConfig:
    """Convolutions over each frame's saliency and BASD maps, then an LSTM over time per map cell."""

    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Channels of each convolution."""
    strides: tuple[int, ...] = (2, 2, 1, 1)
    """Stride of each convolution, both axes."""
    norm_groups: int = 8
    lstm_width: int = 256
    """Channels of the LSTM's state and of the output."""

    def __post_init__(self):
        require(
            len(self.widths) == len(self.strides),
            f"widths {self.widths} and strides {self.strides} differ in length",
        )
        for width in self.widths:
            require(
                width % self.norm_groups == 0,
                f"map encoder width {width} is not divisible by norm_groups={self.norm_groups}",
            )


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """A latent-diffusion autoencoder (diffusers AutoencoderKL); downsamples by 2 per level after the first."""

    widths: tuple[int, ...]
    in_channels: int
    latent_channels: int
    scaling_factor: float
    """What latents are multiplied by so that diffusion sees about unit variance."""
    layers: int = 2
    norm_groups: int = 32
    norm_eps: float = 1e-6

    @property
    def factor(self) -> int:
        """Pixels per latent cell, each axis."""
        return 2 ** (len(self.widths) - 1)


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A text transformer: CLIP's (hidden states) or CLAP's RoBERTa (pooled, projected, L2-normalised)."""

    vocabulary: int
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    tokens: int = 77
    """Tokens a caption is padded or cut to."""
    projection: int = 512
    """Width of the pooled embedding (CLAP only)."""
    norm_eps: float = 1e-5
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    pad_token: int = 1
    """Token id that is masked out and from which RoBERTa counts positions."""
    max_positions: int = 77
    """Rows of the positional table (RoBERTa: tokens + 2)."""


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """HiFi-GAN as in SpeechT5: log-mel to waveform."""

    mel_bands: int = 64
    initial_width: int = 1024
    upsample_rates: tuple[int, ...] = (5, 4, 2, 2, 2)
    upsample_kernels: tuple[int, ...] = (16, 16, 8, 4, 4)
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[int, ...] = (1, 3, 5)
    leaky_slope: float = 0.1
    normalize_before: bool = False

    def __post_init__(self):
        require(
            len(self.upsample_rates) == len(self.upsample_kernels),
            f"upsample_rates {self.upsample_rates} and upsample_kernels {self.upsample_kernels} differ in length",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the shape of a parameter."""

    unet_audio: AudioUNetConfig
    unet_video: VideoUNetConfig
    connector: ConnectorConfig
    map_encoder: MapEncoderConfig
    vae: PerModality[VAEConfig]
    text: PerModality[TextConfig]
    vocoder: VocoderConfig

    def __post_init__(self):
        for name, unet in (("audio", self.unet_audio), ("video", self.unet_video)):
            vae: VAEConfig = getattr(self.vae, name)
            require(
                unet.latent_channels == vae.latent_channels,
                f"the {name} U-Net has {unet.latent_channels} latent channels, its VAE {vae.latent_channels}",
            )
        require(
            self.unet_video.context_width == self.text.video.width,
            f"the video U-Net reads text of width {self.unet_video.context_width}, CLIP gives {self.text.video.width}",
        )
        require(
            self.unet_audio.class_width == self.text.audio.projection,
            f"the audio U-Net reads an embedding of {self.unet_audio.class_width}, "
            f"CLAP gives {self.text.audio.projection}",
        )
