"""Settings of pretraining (`con360av pretrain`): the loss of each part, and its training settings to start from."""

from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from tyro.conf import Fixed, Suppress

from con360av_jax.config.networks import require
from con360av_jax.config.training import Optimizer, TimestepDensity, TrainConfig

Part: TypeAlias = Literal[
    "vae_video",
    "vae_audio",
    "vocoder",
    "text_video",
    "text_audio",
    "unet_video",
    "motion",
    "unet_audio",
    "judge_video",
    "judge_audio",
]
"""Parts of a base that can be pretrained, where motion is the motion modules of the video U-Net, and the judges."""
JUDGES: tuple[Part, Part] = ("judge_video", "judge_audio")
"""Networks of protocol `scenes`, which are no part of a base."""
TOWERS = ("tower_video", "tower_audio")
"""Networks that text encoders are trained with by contrast, which are no part of a base."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Training settings that pretraining of one part puts in place of those in `train`; options come after them."""

    steps: int
    """Number of training steps."""
    batch_size: int = 8
    """Samples per step, over all devices."""
    learning_rate: float = 1e-3
    """Peak learning rate; it falls to 0 at the last step along half a cosine."""
    warmup_steps: int = 100
    """Number of updates in which the learning rate rises linearly to its peak."""
    optimizer: Optimizer = "adamw"
    """Optimizer, as in `train`."""
    timesteps: TimestepDensity = "uniform"
    """Distribution of the timesteps, for U-Nets."""

    def within(self, train: TrainConfig) -> TrainConfig:
        """Returns `train` with this recipe; every parameter of the part is trained."""
        return replace(
            train,
            trainable="all",
            steps=self.steps,
            epochs=0,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            schedule="cosine",
            warmup_steps=self.warmup_steps,
            decay_steps=self.steps,
            optimizer=self.optimizer,
            timesteps=self.timesteps,
        )


@dataclass(frozen=True, kw_only=True)
class VideoVAEPretraining:
    """Loss of the video VAE (train/objectives/vae_video.py)."""

    crop: int = 64
    """Side of the square crops of frames that are trained on (pixels)."""
    gradient_weight: float = 1.0
    """Weight of the L1 distance of image gradients."""
    kl_weight: float = 1e-6
    """Weight of the KL divergence, summed over a latent and divided by the number of values in its input."""
    object_weight: float = 4.0
    """Weight of pixels on known objects, relative to others; 1 weights all pixels alike."""
    object_share: float = 0.5
    """Share of crops that are centred on a known object, where a crop is smaller than the frame (0 to 1)."""
    recipe: Suppress[Fixed[Recipe]] = field(default_factory=lambda: Recipe(steps=100_000))
    """Training settings."""

    def __post_init__(self):
        require(self.crop > 0, f"crop={self.crop} is not positive")
        require(self.object_weight > 0, f"object_weight={self.object_weight} is not positive")
        require(0 <= self.object_share <= 1, f"object_share={self.object_share} is not a share: give 0 to 1")


@dataclass(frozen=True, kw_only=True)
class AudioVAEPretraining:
    """Loss of the VAE of log-mels (train/objectives/vae_audio.py)."""

    frames: int = 96
    """Length of the excerpts that are trained on (mel frames)."""
    gradient_weight: float = 0.0
    """Weight of the L1 distance of gradients over time and mel bands."""
    kl_weight: float = 1e-6
    """Weight of the KL divergence, summed over a latent and divided by the number of values in its input."""
    recipe: Suppress[Fixed[Recipe]] = field(default_factory=lambda: Recipe(steps=100_000))
    """Training settings."""

    def __post_init__(self):
        require(self.frames > 0, f"frames={self.frames} is not positive")


@dataclass(frozen=True, kw_only=True)
class VocoderPretraining:
    """Loss of the vocoder (train/objectives/vocoder.py)."""

    frames: int = 40
    """Length of the excerpts that are trained on (mel frames)."""
    mel_weight: float = 1.0
    """Weight of the L1 distance of log-mels, relative to that of the multi-resolution STFT."""
    recipe: Suppress[Fixed[Recipe]] = field(default_factory=lambda: Recipe(steps=100_000))
    """Training settings."""

    def __post_init__(self):
        require(self.frames > 0, f"frames={self.frames} is not positive")


@dataclass(frozen=True, kw_only=True)
class TextPretraining:
    """Tower (models/contrast.py) and training of a text encoder by contrast (train/objectives/text.py)."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Number of channels of each stage of the tower; each stage halves rows and columns."""
    size: int = 64
    """Side that frames are resized to (pixels); log-mels keep their size."""
    recipe: Suppress[Fixed[Recipe]] = field(default_factory=lambda: Recipe(steps=20_000, batch_size=64))
    """Training settings."""

    def __post_init__(self):
        _require_groups(self.widths)
        require(self.size > 0, f"size={self.size} is not positive")


@dataclass(frozen=True, kw_only=True)
class VideoUNetPretraining:
    """Loss of the video U-Net on stills (train/objectives/unet_video.py)."""

    train_text: bool = True
    """Whether the text encoder is trained as well."""
    recipe: Suppress[Fixed[Recipe]] = field(default_factory=lambda: Recipe(steps=100_000, batch_size=16))
    """Training settings."""


@dataclass(frozen=True, kw_only=True)
class MotionPretraining:
    """Training of the motion modules (train/objectives/motion.py)."""

    recipe: Suppress[Fixed[Recipe]] = field(default_factory=lambda: Recipe(steps=100_000))
    """Training settings."""


@dataclass(frozen=True, kw_only=True)
class AudioUNetPretraining:
    """Loss of the audio U-Net (train/objectives/unet_audio.py)."""

    train_text: bool = True
    """Whether the text encoder is trained as well."""
    recipe: Suppress[Fixed[Recipe]] = field(default_factory=lambda: Recipe(steps=100_000))
    """Training settings."""


@dataclass(frozen=True, kw_only=True)
class VideoJudgePretraining:
    """Network and loss of the video judge (models/judge.py, train/objectives/judge_video.py)."""

    widths: tuple[int, ...] = (16, 32, 64, 96)
    """Number of channels of each stage; all but the last halve the frame."""
    size: int = 64
    """Side that frames are resized to (pixels)."""
    cell_weight: float = 0.5
    """Weight of the cross-entropy of the cell that an object lies in, relative to that of classes."""
    position_weight: float = 2.0
    """Weight of the L1 distance of positions."""
    envelope_weight: float = 0.5
    """Weight of the cross-entropy of envelopes."""
    place_weight: float = 1.0
    """Weight of the cross-entropy of places."""
    recipe: Suppress[Fixed[Recipe]] = field(default_factory=lambda: Recipe(steps=20_000, batch_size=16))
    """Training settings."""

    def __post_init__(self):
        _require_groups(self.widths)
        smallest = 2 ** len(self.widths)
        require(
            self.size > 0 and self.size % smallest == 0,
            f"size={self.size} is no multiple of {smallest}, for {len(self.widths)} stages",
        )


@dataclass(frozen=True, kw_only=True)
class AudioJudgePretraining:
    """Network and loss of the audio judge (models/judge.py, train/objectives/judge_audio.py)."""

    widths: tuple[int, int, int, int] = (16, 32, 64, 64)
    """Number of channels of each stage."""
    features: int = 96
    """Number of features of each step."""
    envelope_weight: float = 1.0
    """Weight of the cross-entropy of envelopes, relative to that of classes."""
    recipe: Suppress[Fixed[Recipe]] = field(default_factory=lambda: Recipe(steps=10_000, batch_size=8))
    """Training settings."""

    def __post_init__(self):
        _require_groups(self.widths)


def _require_groups(widths: tuple[int, ...]) -> None:
    require(
        len(widths) > 1 and all(width > 0 and width % 8 == 0 for width in widths),
        f"widths {widths}: give multiples of 8, for group norms of 8 channels",
    )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretraining of the parts of a base and of the judges, one at a time."""

    vae_video: VideoVAEPretraining = field(default_factory=VideoVAEPretraining)
    """Video VAE."""
    vae_audio: AudioVAEPretraining = field(default_factory=AudioVAEPretraining)
    """Audio VAE."""
    vocoder: VocoderPretraining = field(default_factory=VocoderPretraining)
    """Vocoder."""
    text_video: TextPretraining = field(default_factory=TextPretraining)
    """Text encoder of the video U-Net, by contrast with stills."""
    text_audio: TextPretraining = field(default_factory=TextPretraining)
    """Text encoder of the audio U-Net, by contrast with log-mels."""
    unet_video: VideoUNetPretraining = field(default_factory=VideoUNetPretraining)
    """Video U-Net without motion modules, on stills."""
    motion: MotionPretraining = field(default_factory=MotionPretraining)
    """Motion modules of the video U-Net."""
    unet_audio: AudioUNetPretraining = field(default_factory=AudioUNetPretraining)
    """Audio U-Net."""
    judge_video: VideoJudgePretraining = field(default_factory=VideoJudgePretraining)
    """Video judge."""
    judge_audio: AudioJudgePretraining = field(default_factory=AudioJudgePretraining)
    """Audio judge."""
    scene_captions: float = 0.5
    """Share of views of procedural scenes that have the caption of the whole scene, not that of the view (0 to 1)."""
    validation_batches: int = 16
    """Number of held-out batches that are measured at every checkpoint; always the same ones."""

    def __post_init__(self):
        share = self.scene_captions
        require(0 <= share <= 1, f"scene_captions={share} is not a share: give 0 to 1")
        require(self.validation_batches > 0, f"validation_batches={self.validation_batches} is not positive")
