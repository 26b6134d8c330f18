"""All settings of a config: frozen dataclasses with units, defaults and checks across fields.

The values of each config are in `configs/`, one Python file per config. The settings of the networks are defined in
config/networks.py and importable from here as well.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from con360av_jax.config.networks import AudioUNetConfig as AudioUNetConfig
from con360av_jax.config.networks import ConnectorConfig as ConnectorConfig
from con360av_jax.config.networks import MapEncoderConfig as MapEncoderConfig
from con360av_jax.config.networks import ModelConfig, PerModality, require
from con360av_jax.config.networks import TextConfig as TextConfig
from con360av_jax.config.networks import UNetLevel as UNetLevel
from con360av_jax.config.networks import VAEConfig as VAEConfig
from con360av_jax.config.networks import VideoUNetConfig as VideoUNetConfig
from con360av_jax.config.networks import VocoderConfig as VocoderConfig

Remat: TypeAlias = Literal["none", "products", "blocks"]


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
    set_alpha_to_one: bool = False
    """Whether the last sampling step ends at alpha_bar = 1; otherwise at the alpha_bar of timestep 0."""


AUDIO_SCHEDULE = NoiseSchedule(beta_start=0.0015, beta_end=0.0195, kind="scaled_linear", spacing="leading")
# The baseline trains video with *linear* betas, unlike plain Stable Diffusion.
VIDEO_SCHEDULE = NoiseSchedule(beta_start=0.00085, beta_end=0.012, kind="linear", spacing="linspace")


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Guided DDIM sampling with timestep adjustment."""

    steps: int = 50
    """Number of sampling steps."""
    text_guidance: PerModality[float] = field(default_factory=lambda: PerModality(audio=2.5, video=7.5))
    """Guidance scale of the caption; 1 conditions without extra guidance."""
    map_guidance: PerModality[float] = field(default_factory=lambda: PerModality(audio=1.0, video=1.0))
    """Guidance scale of the saliency and BASD maps; 1 conditions without extra guidance."""
    timestep_gamma: float = 1.5
    """Gamma of the timestep adjustment t -> T (t/T)^g, with g = sqrt(gamma) for video and 1/sqrt(gamma) for audio; 1
    turns it off (Ishii et al. 2024)."""


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
class TrainConfig:
    """Training settings; the published ones are in configs/paper_a100x4.py."""

    trainable: str = "connectors"
    """Parameters that are trained. control: Map Encoder and FiLM. connectors (the published setting): also the
    connectors and environment encoders. motion: also the motion modules. all: every parameter of the joint model.
    Anything else is a regular expression for whole parameter paths, such as "connector/.*|unet/video/conv_out/.*"."""
    batch_size: int = 4
    """Samples per step, over all devices."""
    accumulate: int = 1
    """Parts of a batch that are computed one after the other to save memory; the update does not change."""
    steps: int = 10_000
    """Number of training steps; 0 if `epochs` is given."""
    epochs: int = 0
    """Number of passes over the records of the dataset, in place of `steps`; 0 if `steps` is given. A run records the
    number of steps that it comes to."""
    learning_rate: float = 1e-5
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or half a cosine that reaches 0 at `decay_steps`."""
    warmup_steps: int = 0
    """Number of updates in which the learning rate rises linearly to its peak."""
    decay_steps: int = 10_000
    """Number of updates, warm-up included, until the cosine schedule reaches 0; the constant schedule ignores it."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; a longer gradient is scaled down to it."""
    ema_decay: float = 0.9999
    """Decay per update of the moving average of the trained parameters, approached from 0 as (1 + s) / (10 + s) after s
    updates; 0 keeps no average."""
    text_dropout: float = 0.1
    """Share of samples whose caption is replaced by the empty one (0 to 1)."""
    map_dropout: float = 0.1
    """Share of samples whose maps are left out (0 to 1)."""
    clean_estimate_share: float = 0.5
    """Share of samples whose environment encoders get the predicted clean latent instead of zeros (0 to 1)."""
    seed: int = 0
    """Seed of the order of the samples and of all random numbers of training."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints that are kept."""
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Data type of activations and frozen weights; norms, softmax, losses and trained weights are always float32."""
    remat: Remat = "none"
    """Activations that the backward pass computes again to save memory: none; products keeps only the results of
    convolutions and matrix products; blocks keeps only the inputs of whole blocks."""
    loader_threads: int = 2
    """Threads per process that load batches ahead; 0 loads each batch when it is needed. The order of the samples does
    not depend on it."""
    on_corrupt: Literal["stop", "skip"] = "skip"
    """Whether a corrupt record stops the run or is replaced by another record (see data/intact_records.py)."""
    max_corrupt_share: float = 0.01
    """Share of the records that may be corrupt with on_corrupt=skip (0 to 1); more stop the run. Above 0, one corrupt
    record is always allowed."""
    tensorboard: bool = True
    """Whether metrics are also written as TensorBoard files to RUN/tensorboard."""
    wandb_project: str = ""
    """Weights & Biases project that metrics are also sent to; empty for none."""
    on_nan: Literal["stop", "skip"] = "stop"
    """Reaction to a loss or gradient that is NaN or infinite: stop the run, or skip the update of that step."""
    max_skips: int = 10
    """Consecutive steps that may be skipped with on_nan=skip (1 or more); one more stops the run."""

    def __post_init__(self):
        require(
            min(self.steps, self.epochs) >= 0 and self.steps + self.epochs > 0,
            f"steps={self.steps} and epochs={self.epochs}: give a positive number of one of them",
        )
        require(
            0 in (self.steps, self.epochs),
            f"steps={self.steps} and epochs={self.epochs} are both given: set one of them to 0",
        )
        require(self.max_skips >= 1, f"max_skips={self.max_skips} is below 1: give 1 or more, or on_nan=stop")
        require(self.loader_threads >= 0, f"loader_threads={self.loader_threads} is negative; 0 uses no threads")
        require(
            0 <= self.max_corrupt_share <= 1,
            f"max_corrupt_share={self.max_corrupt_share} is not a share: give a number from 0 to 1",
        )
        require(
            self.accumulate >= 1 and self.batch_size % self.accumulate == 0,
            f"a batch of {self.batch_size} does not divide into accumulate={self.accumulate} parts",
        )
        require(
            self.schedule == "constant" or self.decay_steps > self.warmup_steps >= 0,
            f"the cosine ends at decay_steps={self.decay_steps}, before warmup_steps={self.warmup_steps} are over",
        )

    def in_steps(self, records: int) -> "TrainConfig":
        """Returns the settings with `epochs` over `records` records as `steps`; the last batch may begin another pass.

        Settings that give `steps` are returned as they are.
        """
        if self.epochs == 0:
            return self
        return replace(self, steps=-(-records * self.epochs // self.batch_size), epochs=0)


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
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Devices."""

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
