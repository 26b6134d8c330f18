"""Every setting of the system as frozen dataclasses, with units and cross-field checks.

Values live in `configs/`, one Python file per experiment; here stands what can be set and what fits together.
The networks' own settings are in `model_config` and offered here too.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from con360av_jax.config.networks import (
    AudioUNetConfig,
    ConnectorConfig,
    MapEncoderConfig,
    ModelConfig,
    PerModality,
    TextConfig,
    UNetLevel,
    VAEConfig,
    VideoUNetConfig,
    VocoderConfig,
    require,
)

__all__ = [
    "AUDIO_SCHEDULE",
    "AudioUNetConfig",
    "ClipConfig",
    "Config",
    "ConnectorConfig",
    "MapEncoderConfig",
    "MelConfig",
    "MeshConfig",
    "ModelConfig",
    "NoiseSchedule",
    "PerModality",
    "Remat",
    "SamplerConfig",
    "TextConfig",
    "TrainConfig",
    "UNetLevel",
    "VAEConfig",
    "VIDEO_SCHEDULE",
    "VideoUNetConfig",
    "VocoderConfig",
]

Remat: TypeAlias = Literal["none", "products", "blocks"]


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What one training sample is: a segment of a panorama seen from one viewpoint (DESIGN: the data contract)."""

    seconds: int = 4
    """Length of a segment, s."""
    hop_seconds: int = 3
    """Distance between the starts of two segments, s."""
    frames_per_second: int = 8
    """Frames of the target view per second."""
    height: int = 256
    """Height of the target view, pixels."""
    width: int = 256
    """Width of the target view, pixels."""
    map_height: int = 64
    """Height of the saliency and BASD panoramas, pixels."""
    map_width: int = 128
    """Width of the saliency and BASD panoramas, pixels; twice the height."""

    def __post_init__(self):
        require(self.seconds > 0 and self.hop_seconds > 0, f"seconds and hop_seconds must be positive: {self}")
        require(
            self.map_width == 2 * self.map_height,
            f"a panorama is twice as wide as high, but map_width={self.map_width}, map_height={self.map_height}",
        )

    @property
    def frames(self) -> int:
        """Frames in one segment."""
        return self.seconds * self.frames_per_second


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """The mel front end of AudioLDM: natural log of slaney mels on magnitude."""

    sample_rate: int = 16_000
    """Samples per second, Hz."""
    window: int = 1024
    """Length of the FFT and of its Hann window, samples."""
    hop: int = 160
    """Samples between two mel frames."""
    bands: int = 64
    """Mel bands."""
    low_hz: float = 0.0
    """Lower edge of the lowest band, Hz."""
    high_hz: float = 8_000.0
    """Upper edge of the highest band, Hz."""
    floor: float = 1e-5
    """Smallest magnitude before the logarithm."""

    def __post_init__(self):
        require(
            self.high_hz <= self.sample_rate / 2,
            f"high_hz={self.high_hz} lies above half of sample_rate={self.sample_rate}",
        )

    @property
    def frames_per_second(self) -> int:
        """Mel frames per second."""
        return self.sample_rate // self.hop


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """Betas of one modality's diffusion and how a sampler spaces its steps, as in diffusers' DDIMScheduler."""

    beta_start: float
    beta_end: float
    kind: Literal["linear", "scaled_linear"]
    train_steps: int = 1000
    steps_offset: int = 1
    spacing: Literal["leading", "linspace", "trailing"] = "leading"
    set_alpha_to_one: bool = False


AUDIO_SCHEDULE = NoiseSchedule(beta_start=0.0015, beta_end=0.0195, kind="scaled_linear", spacing="leading")
# The baseline trains the picture with *linear* betas, unlike plain Stable Diffusion.
VIDEO_SCHEDULE = NoiseSchedule(beta_start=0.00085, beta_end=0.012, kind="linear", spacing="linspace")


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Guided DDIM with timestep adjustment."""

    steps: int = 50
    text_guidance: PerModality[float] = field(default_factory=lambda: PerModality(audio=2.5, video=7.5))
    map_guidance: PerModality[float] = field(default_factory=lambda: PerModality(audio=1.0, video=1.0))
    timestep_gamma: float = 1.5
    """Video steps at t -> T (t/T)^sqrt(gamma), audio at the inverse exponent."""


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis; their product is the number of devices used."""

    data: int = 1
    """Copies of the model, each with a part of the batch."""
    fsdp: int = 1
    """Parts that every large parameter is split into."""
    tensor: int = 1
    """Parts that heads and channels are split into."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training recipe (Con360-AV, training settings)."""

    trainable: str = "connectors"
    """What learns: control = Map Encoder + FiLM; connectors adds the connectors and environment encoders (the
    published setting); motion adds the motion modules; all = every parameter of the joint model. Anything else is a
    regular expression that whole parameter paths must match, as "connector/.*|unet/video/conv_out/.*"."""
    batch_size: int = 4
    """Samples per update over all devices."""
    accumulate: int = 1
    """Parts of a batch that are computed one after the other, to fit into memory; the update stays the same."""
    steps: int = 10_000
    learning_rate: float = 1e-5
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate after warm-up: stays, or falls along half a cosine to 0 at `decay_steps`."""
    warmup_steps: int = 0
    """Updates in which the learning rate rises."""
    decay_steps: int = 10_000
    """Update, counted from the first one, at which a cosine schedule has fallen to 0; a constant one has no end."""
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""
    ema_decay: float = 0.9999
    """Decay of the moving average per step; 0 keeps none, it is then the parameters themselves."""
    text_dropout: float = 0.1
    """Share of samples trained with the empty caption."""
    map_dropout: float = 0.1
    """Share of samples trained without maps."""
    clean_estimate_share: float = 0.5
    """Share of samples whose environment encoders see a predicted clean latent instead of zeros."""
    seed: int = 0
    log_every: int = 10
    """Steps between two lines of metrics."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: int = 3
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Activations and frozen weights; norms, softmax, losses and trainable weights stay float32."""
    remat: Remat = "none"
    """What is computed again in the backward pass to save memory: nothing; all but convolutions and matrix products;
    or whole blocks."""
    loader_threads: int = 2
    """Batches that each process makes at a time; 0 makes them one by one, when they are asked for. The order of the
    samples does not depend on it."""
    on_corrupt: Literal["stop", "skip"] = "skip"
    """Whether a damaged record stops the run, or another one takes its place (data/corrupt.py says which)."""
    max_corrupt_share: float = 0.01
    """Share of a dataset's records that may be damaged under "skip"; more stop the run. Unless it is 0, one may be."""
    tensorboard: bool = True
    """Whether metrics also go to TensorBoard files in the run's folder."""
    wandb_project: str = ""
    """Project in Weights & Biases that metrics also go to; empty for none."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is infinite or no number does: stop the run, or leave that step out: it counts, but
    changes nothing."""
    max_skips: int = 10
    """Steps in a row that may be left out under "skip"; one more stops the run."""

    def __post_init__(self):
        require(self.max_skips >= 1, f"max_skips={self.max_skips} is below 1; on_nan=stop leaves no step out")
        require(self.loader_threads >= 0, f"loader_threads={self.loader_threads} is negative; 0 uses no threads")
        require(
            0 <= self.max_corrupt_share <= 1,
            f"max_corrupt_share={self.max_corrupt_share} is no share; give a number from 0 to 1",
        )
        require(
            self.accumulate >= 1 and self.batch_size % self.accumulate == 0,
            f"a batch of {self.batch_size} does not divide into accumulate={self.accumulate} parts",
        )
        require(
            self.schedule == "constant" or self.decay_steps > self.warmup_steps >= 0,
            f"a cosine ends at decay_steps={self.decay_steps}, before warmup_steps={self.warmup_steps} are over",
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment."""

    name: str
    clip: ClipConfig
    mel: MelConfig
    model: ModelConfig
    schedule: PerModality[NoiseSchedule] = field(
        default_factory=lambda: PerModality(audio=AUDIO_SCHEDULE, video=VIDEO_SCHEDULE)
    )
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self):
        video, audio = self.model.vae.video, self.model.vae.audio
        smallest = video.factor * 8
        require(
            self.clip.height % smallest == 0 and self.clip.width % smallest == 0,
            f"the view is {self.clip.height}x{self.clip.width}, but VAE and U-Net together halve it down to 1 in "
            f"{smallest}: use multiples of {smallest}",
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
            f"{self.clip.frames} frames, but the motion modules know {self.model.unet_video.motion_max_frames}",
        )
        require(
            self.model.vocoder.mel_bands == self.mel.bands,
            f"the vocoder reads {self.model.vocoder.mel_bands} mel bands, the front end makes {self.mel.bands}",
        )
