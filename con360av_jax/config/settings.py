"""All settings of a config: frozen dataclasses with units, defaults and checks across fields.

The values of each config are in `configs/`, one Python file per config. The settings of the networks, of
training and of pretraining are defined in files of their own and importable from here as well.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from con360av_jax.config.networks import AudioUNetConfig as AudioUNetConfig
from con360av_jax.config.networks import ConnectorConfig as ConnectorConfig
from con360av_jax.config.networks import Dtype as Dtype
from con360av_jax.config.networks import MapEncoderConfig as MapEncoderConfig
from con360av_jax.config.networks import ModelConfig, PerModality, require
from con360av_jax.config.networks import TextConfig as TextConfig
from con360av_jax.config.networks import UNetLevel as UNetLevel
from con360av_jax.config.networks import VAEConfig as VAEConfig
from con360av_jax.config.networks import VideoUNetConfig as VideoUNetConfig
from con360av_jax.config.networks import VocoderConfig as VocoderConfig
from con360av_jax.config.pretraining import AudioJudgePretraining as AudioJudgePretraining
from con360av_jax.config.pretraining import AudioUNetPretraining as AudioUNetPretraining
from con360av_jax.config.pretraining import AudioVAEPretraining as AudioVAEPretraining
from con360av_jax.config.pretraining import MotionPretraining as MotionPretraining
from con360av_jax.config.pretraining import PretrainConfig as PretrainConfig
from con360av_jax.config.pretraining import Recipe as Recipe
from con360av_jax.config.pretraining import TextPretraining as TextPretraining
from con360av_jax.config.pretraining import VideoJudgePretraining as VideoJudgePretraining
from con360av_jax.config.pretraining import VideoUNetPretraining as VideoUNetPretraining
from con360av_jax.config.pretraining import VideoVAEPretraining as VideoVAEPretraining
from con360av_jax.config.pretraining import VocoderPretraining as VocoderPretraining
from con360av_jax.config.training import Remat as Remat
from con360av_jax.config.training import TrainConfig
from con360av_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Size of one sample: a segment of a panorama seen from one viewpoint."""

    seconds: int = 4
    """Length of a segment (s)."""
    hop_seconds: int = 3
    """Time between the starts of consecutive segments of a recording (s)."""
    frames_per_second: int = 8
    """Frame rate of the view, its maps and its viewpoint track (frames per second)."""
    height: int = 256
    """Height of the view (pixels); a multiple of 8 times the downsampling factor of the video VAE."""
    width: int = 256
    """Width of the view (pixels); a multiple of 8 times the downsampling factor of the video VAE."""
    map_height: int = 64
    """Height of the saliency and BASD maps, which cover the whole panorama (pixels)."""
    map_width: int = 128
    """Width of the saliency and BASD maps (pixels); twice `map_height`."""

    def __post_init__(self):
        require(self.seconds > 0 and self.hop_seconds > 0, f"seconds and hop_seconds must be positive: {self}")
        require(
            self.map_width == 2 * self.map_height,
            f"a panorama is twice as wide as high, but map_width={self.map_width}, map_height={self.map_height}",
        )

    @property
    def frames(self) -> int:
        """Number of video frames in one segment."""
        return self.seconds * self.frames_per_second


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """Log-mel spectrograms of AudioLDM: natural logarithm of Slaney mel bands of the STFT magnitude."""

    sample_rate: int = 16_000
    """Sample rate of the audio (Hz)."""
    window: int = 1024
    """Length of the FFT and of its Hann window (audio samples)."""
    hop: int = 160
    """Distance between consecutive mel frames (audio samples)."""
    bands: int = 64
    """Number of mel bands."""
    low_hz: float = 0.0
    """Lower edge of the lowest band (Hz)."""
    high_hz: float = 8_000.0
    """Upper edge of the highest band (Hz); at most half of `sample_rate`."""
    floor: float = 1e-5
    """Lower limit of the mel magnitudes, applied before the logarithm."""

    def __post_init__(self):
        require(
            self.high_hz <= self.sample_rate / 2,
            f"high_hz={self.high_hz} lies above half of sample_rate={self.sample_rate}",
        )

    @property
    def frames_per_second(self) -> int:
        """Rate of the mel frames (frames per second)."""
        return self.sample_rate // self.hop


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """Noise schedule of one modality and the spacing of its sampling steps, as in diffusers' DDIMScheduler."""

    beta_start: float
    """Noise variance (beta) of the first timestep."""
    beta_end: float
    """Noise variance (beta) of the last timestep."""
    kind: Literal["linear", "scaled_linear"]
    """Interpolation between the betas: linear, or scaled_linear, which is linear in their square roots."""
    train_steps: int = 1000
    """Number of timesteps of the diffusion process."""
    steps_offset: int = 1
    """Number added to the timesteps of the sampler with leading spacing."""
    spacing: Literal["leading", "linspace", "trailing"] = "leading"
    """Spacing of the sampling steps over the timesteps, named as in diffusers."""
    prediction: Literal["epsilon", "v"] = "epsilon"
    """Kind of the U-Net's prediction, which its loss compares: the noise, as in the published weights, or the velocity
    (Salimans and Ho 2022), by which a model also learns what the noisiest timesteps leave undecided."""
    set_alpha_to_one: bool = False
    """Whether the last sampling step ends at alpha_bar = 1; otherwise at the alpha_bar of timestep 0."""


AUDIO_SCHEDULE = NoiseSchedule(beta_start=0.0015, beta_end=0.0195, kind="scaled_linear", spacing="leading")
# The baseline trains video with *linear* betas, unlike plain Stable Diffusion.
VIDEO_SCHEDULE = NoiseSchedule(beta_start=0.00085, beta_end=0.012, kind="linear", spacing="linspace")


Solver: TypeAlias = Literal["ddim", "dpmpp_2m", "unipc"]


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Guided sampling with timestep adjustment."""

    steps: int = 50
    """Number of sampling steps."""
    solver: Solver = "ddim"
    """Solver: DDIM as published, or DPM-Solver++(2M) or UniPC, which need fewer steps."""
    text_guidance: PerModality[float] = field(default_factory=lambda: PerModality(audio=2.5, video=7.5))
    """Guidance scale of the caption; 1 conditions without extra guidance."""
    map_guidance: PerModality[float] = field(default_factory=lambda: PerModality(audio=1.0, video=1.0))
    """Guidance scale of the saliency and BASD maps; 1 conditions without extra guidance."""
    saliency_guidance: PerModality[float | None] = field(default_factory=lambda: PerModality(audio=None, video=None))
    """Guidance scale of saliency where it differs from that of BASD, which then is map_guidance; None is map_guidance
    for both."""
    timestep_gamma: float = 1.5
    """Gamma of the timestep adjustment t -> T (t/T)^g, with g = sqrt(gamma) for video and 1/sqrt(gamma) for audio; 1
    turns it off (Ishii et al. 2024)."""
    guidance_least: float = 0.0
    """Noise level sqrt((1 - alpha_bar) / alpha_bar) below which nothing is guided: all scales are 1, with a single
    prediction (Kynkäänniemi et al. 2024)."""
    guidance_most: float | None = None
    """Noise level above which nothing is guided; None is no limit."""

    def __post_init__(self):
        most = math.inf if self.guidance_most is None else self.guidance_most
        require(
            0 <= self.guidance_least < most,
            f"guidance_least={self.guidance_least} and guidance_most={self.guidance_most} leave no noise level between",
        )

    def given(
        self, *, solver: Solver | None = None, guidance_least: float | None = None, guidance_most: float | None = None
    ) -> "SamplerConfig":
        """Returns these settings with those in place that are not None."""
        found = {"solver": solver, "guidance_least": guidance_least, "guidance_most": guidance_most}
        return replace(self, **{name: value for name, value in found.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Number of devices along each mesh axis; the product is the number of devices of the run."""

    data: int = 1
    """Devices along the data axis: copies of the model, each with its own part of the batch."""
    fsdp: int = 1
    """Devices along the fsdp axis: parts that each large parameter and each batch is split into."""
    tensor: int = 1
    """Devices along the tensor axis: parts that attention heads and channels are split into."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of one experiment."""

    name: str
    """Name of the config; shown in reports and folder names, never part of a computation."""
    clip: ClipConfig
    """Length, frame rate and size of a sample."""
    mel: MelConfig
    """Log-mel spectrograms."""
    model: ModelConfig
    """Networks."""
    schedule: PerModality[NoiseSchedule] = field(
        default_factory=lambda: PerModality(audio=AUDIO_SCHEDULE, video=VIDEO_SCHEDULE)
    )
    """Noise schedules."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Sampling."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Training."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Pretraining of the parts of a base."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Devices."""

    def on_base(self, base: "Config", clip: ClipConfig) -> "Config":
        """Returns these settings of training, sampling and devices for the networks of another config.

        Model, mel and noise schedules are those of `base`, and samples have the size `clip`. Raises ConfigError if the
        networks cannot take such samples.
        """
        try:
            return replace(self, model=base.model, mel=base.mel, schedule=base.schedule, clip=clip)
        except ConfigError as error:
            raise ConfigError(f"the networks of {base.name!r} cannot take these clips: {error}") from error

    def __post_init__(self):
        video, audio = self.model.vae.video, self.model.vae.audio
        smallest = video.factor * 8
        require(
            self.clip.height % smallest == 0 and self.clip.width % smallest == 0,
            f"the view is {self.clip.height}x{self.clip.width}, but VAE and U-Net downsample it by {smallest}: use "
            f"multiples of {smallest}",
        )
        require(
            self.mel.bands % (audio.factor * 8) == 0,
            f"{self.mel.bands} mel bands are not divisible by {audio.factor * 8}",
        )
        require(
            (self.clip.seconds * self.mel.frames_per_second) % audio.factor == 0,
            f"{self.clip.seconds * self.mel.frames_per_second} mel frames are not divisible by {audio.factor}",
        )
        require(
            self.clip.frames <= self.model.unet_video.motion_max_frames,
            f"a segment has {self.clip.frames} frames, but motion_max_frames={self.model.unet_video.motion_max_frames}",
        )
        require(
            self.model.vocoder.mel_bands == self.mel.bands,
            f"the vocoder reads {self.model.vocoder.mel_bands} mel bands, but mel.bands={self.mel.bands}",
        )
