"""Settings of the networks, which decide the shape of every parameter: one frozen dataclass per network."""

from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from con360av_jax.errors import ConfigError

T = TypeVar("T")
Dtype: TypeAlias = Literal["float32", "bfloat16"]
"""Data types that networks can compute in."""


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class PerModality(Generic[T]):
    """One value per modality."""

    audio: T
    """Value for audio."""
    video: T
    """Value for video."""


@dataclass(frozen=True, kw_only=True)
class UNetLevel:
    """One resolution level of a U-Net."""

    width: int
    """Number of channels."""
    layers: int = 2
    """Number of residual blocks in the down block; the up block has one more."""
    attention: bool = True
    """Whether a spatial transformer follows each residual block."""
    heads: int = 8
    """Number of attention heads; divides `width`."""


@dataclass(frozen=True, kw_only=True)
class AudioUNetConfig:
    """U-Net of AudioLDM: the CLAP embedding is concatenated to the time embedding; all attention is self-attention."""

    levels: tuple[UNetLevel, ...]
    """The four resolution levels, highest resolution first."""
    latent_channels: int = 8
    """Number of channels of the audio latent."""
    class_width: int = 512
    """Width of the CLAP text embedding."""
    norm_groups: int = 32
    """Number of groups of each GroupNorm; divides every level's width."""
    norm_eps: float = 1e-5
    """Epsilon of each GroupNorm."""

    def __post_init__(self):
        _require_four_levels(self.levels, self.norm_groups)


@dataclass(frozen=True, kw_only=True)
class VideoUNetConfig:
    """U-Net of Stable Diffusion 1.5 with an AnimateDiff motion module after every layer of a block."""

    levels: tuple[UNetLevel, ...]
    """The four resolution levels, highest resolution first."""
    latent_channels: int = 4
    """Number of channels of the video latent."""
    context_width: int = 768
    """Width of the CLIP hidden states that cross-attention reads."""
    norm_groups: int = 32
    """Number of groups of each GroupNorm; divides every level's width."""
    norm_eps: float = 1e-5
    """Epsilon of each GroupNorm."""
    motion_heads: int = 8
    """Number of attention heads in a motion module."""
    motion_norm_groups: int = 32
    """Number of groups of the GroupNorm of a motion module."""
    motion_max_frames: int = 32
    """Length of the temporal positional encoding (frames); a segment has at most as many."""
    motion_mid_block: bool = True
    """Whether the middle block has a motion module, too."""

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
    """Connectors between the two U-Nets (CMC-PE) and the environment encoders that feed them."""

    channels: int = 1280
    """Number of channels of the sequence that one modality sends to the other."""
    head_width: int = 8
    """Number of channels per attention head in a connector."""


@dataclass(frozen=True, kw_only=True)
class MapEncoderConfig:
    """Encoder of the saliency and BASD maps: convolutions per frame, then an LSTM over time in each map cell."""

    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Number of channels of each convolution; each divisible by `norm_groups`."""
    strides: tuple[int, ...] = (2, 2, 1, 1)
    """Stride of each convolution along both axes; as many as `widths`."""
    norm_groups: int = 8
    """Number of groups of each GroupNorm."""
    lstm_width: int = 256
    """Number of channels of the LSTM state, which is the output."""

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
    """Autoencoder of latent diffusion (AutoencoderKL of diffusers); each level after the first downsamples by 2."""

    widths: tuple[int, ...]
    """Number of channels of each level, highest resolution first."""
    in_channels: int
    """Number of input channels: 3 for video frames, 1 for spectrograms."""
    latent_channels: int
    """Number of channels of the latent."""
    scaling_factor: float
    """Factor that latents are multiplied by, for about unit variance in diffusion."""
    layers: int = 2
    """Number of residual blocks per level of the encoder; the decoder has one more."""
    norm_groups: int = 32
    """Number of groups of each GroupNorm."""
    norm_eps: float = 1e-6
    """Epsilon of each GroupNorm."""

    @property
    def factor(self) -> int:
        """Downsampling factor: pixels per latent cell along each axis."""
        return 2 ** (len(self.widths) - 1)


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Text encoder: CLIP (hidden states, for video) or the RoBERTa of CLAP (pooled and L2-normalised, for audio)."""

    vocabulary: int
    """Number of token ids."""
    width: int = 768
    """Width of the hidden states."""
    layers: int = 12
    """Number of transformer layers."""
    heads: int = 12
    """Number of attention heads."""
    mlp_width: int = 3072
    """Width of the hidden layer of each feed-forward network."""
    tokens: int = 77
    """Number of tokens that each caption is padded or cut to."""
    projection: int = 512
    """Width of the pooled embedding (CLAP only)."""
    norm_eps: float = 1e-5
    """Epsilon of each LayerNorm."""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """Activation of each feed-forward network."""
    pad_token: int = 1
    """Token id of padding, which is masked out; RoBERTa counts positions from it."""
    max_positions: int = 77
    """Number of rows of the positional table (CLIP: tokens; RoBERTa: tokens + 2)."""


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Vocoder from log-mel to waveform: HiFi-GAN as in SpeechT5."""

    mel_bands: int = 64
    """Number of mel bands."""
    initial_width: int = 1024
    """Number of channels before the first upsampling; each upsampling halves it."""
    upsample_rates: tuple[int, ...] = (5, 4, 2, 2, 2)
    """Upsampling factor of each stage."""
    upsample_kernels: tuple[int, ...] = (16, 16, 8, 4, 4)
    """Kernel length of each stage's transposed convolution; as many as `upsample_rates`."""
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    """Kernel lengths of the parallel residual blocks of each stage."""
    resblock_dilations: tuple[int, ...] = (1, 3, 5)
    """Dilations of the convolutions of each residual block."""
    leaky_slope: float = 0.1
    """Slope of the leaky ReLUs for negative inputs."""
    normalize_before: bool = False
    """Whether the log-mel is normalised by a stored mean and scale first."""

    def __post_init__(self):
        require(
            len(self.upsample_rates) == len(self.upsample_kernels),
            f"upsample_rates {self.upsample_rates} and upsample_kernels {self.upsample_kernels} differ in length",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Settings of all networks of the model."""

    unet_audio: AudioUNetConfig
    """U-Net that denoises audio latents."""
    unet_video: VideoUNetConfig
    """U-Net that denoises video latents."""
    connector: ConnectorConfig
    """Connectors and environment encoders."""
    map_encoder: MapEncoderConfig
    """Encoder of the saliency and BASD maps."""
    vae: PerModality[VAEConfig]
    """Autoencoders between mel or video and latents."""
    text: PerModality[TextConfig]
    """Text encoders: CLAP for audio, CLIP for video."""
    vocoder: VocoderConfig
    """Vocoder from log-mel to waveform."""

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
