"""Settings of training: what is trained, on which batches, for how long, and what a run writes."""

from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from con360av_jax.config.networks import Dtype, PerModality, require

Remat: TypeAlias = Literal["none", "products", "blocks"]
Optimizer: TypeAlias = Literal["adamw", "muon"]
TimestepDensity: TypeAlias = Literal["uniform", "logit_normal"]
SHARES = (
    "text_dropout", "map_dropout", "saliency_dropout", "basd_dropout", "clean_estimate_share", "max_corrupt_share",
)  # fmt: skip


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
    optimizer: Optimizer = "adamw"
    """Optimizer: adamw (the published one), or muon for all matrices and convolutions, with adamw for vectors."""
    learning_rate: float = 1e-5
    """Peak learning rate; muon's updates are scaled to the size of adamw's, so that it can stay as it is."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or half a cosine that reaches 0 at `decay_steps`."""
    warmup_steps: int = 0
    """Number of updates in which the learning rate rises linearly to its peak."""
    decay_steps: int = 10_000
    """Number of updates, warm-up included, until the cosine schedule reaches 0; the constant schedule ignores it."""
    weight_decay: float = 1e-2
    """Weight decay."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; a longer gradient is scaled down to it."""
    ema_decay: float = 0.9999
    """Decay per update of the moving average of the trained parameters, approached from 0 as (1 + s) / (10 + s) after s
    updates; 0 keeps no average."""
    text_dropout: float = 0.1
    """Share of samples whose caption is replaced by the empty one (0 to 1)."""
    map_dropout: float = 0.1
    """Share of samples whose saliency and BASD are left out together (0 to 1); these see exactly the baseline."""
    saliency_dropout: float = 0.1
    """Share of samples whose saliency is left out, drawn independently of `map_dropout` (0 to 1)."""
    basd_dropout: float = 0.1
    """Share of samples whose BASD is left out, drawn independently of the others (0 to 1)."""
    clean_estimate_share: float = 0.5
    """Share of samples whose environment encoders get the predicted clean latent instead of zeros (0 to 1)."""
    loss_weight: PerModality[float] = field(default_factory=lambda: PerModality(audio=1.0, video=1.0))
    """Weight of each modality's loss in their sum, which training minimises (0 or more, not both 0)."""
    min_snr_gamma: float = 0.0
    """Gamma of the min-SNR weighting (Hang et al. 2023, arXiv 2303.09556): each sample's error counts min(SNR, gamma) /
    SNR, with the signal-to-noise ratio SNR of its timestep in its modality's schedule; 0 weighs all timesteps alike."""
    timesteps: TimestepDensity = "uniform"
    """Distribution of the timesteps of training: uniform, or logit_normal, which draws those between pure noise and
    clean latents more often (diffusion/timesteps.py)."""
    timestep_location: float = -0.5
    """Location m of the logit-normal distribution: its median timestep is the share 1 / (1 + exp(-m)) of all."""
    timestep_scale: float = 1.25
    """Scale s of the logit-normal distribution (above 0)."""
    seed: int = 0
    """Seed of the order of the samples and of all random numbers of training."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints that are kept."""
    milestone_every: int = 0
    """Steps between two milestones: checkpoints that are kept besides the newest ones; 0 for none."""
    validate_every: int = 1000
    """Steps between two validations, in a run with held-out records (`con360av train --validation`); 0 for none."""
    validation_records: int = 32
    """Number of held-out records of a validation, each at one timestep of every range: the first record of each
    recording, then the second of each, and so on."""
    sample_every: int = 0
    """Steps between two sets of sample clips of held-out records, written to RUN/samples; 0 for none."""
    sample_clips: int = 4
    """Number of clips of a set, of the first of the held-out records."""
    compute_dtype: Dtype = "bfloat16"
    """Data type of activations and frozen weights in training; norms and their parameters, softmax, losses, text
    encoders and trained weights are always float32. Sampling and evaluation have an option of their own, --dtype."""
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
        for name in ("milestone_every", "validate_every", "sample_every"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)} is negative; 0 means never")
        for name in ("validation_records", "sample_clips"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} is below 1")
        require(self.max_skips >= 1, f"max_skips={self.max_skips} is below 1: give 1 or more, or on_nan=stop")
        require(self.loader_threads >= 0, f"loader_threads={self.loader_threads} is negative; 0 uses no threads")
        for name in SHARES:
            share = getattr(self, name)
            require(0 <= share <= 1, f"{name}={share} is not a share: give a number from 0 to 1")
        weights = (self.loss_weight.audio, self.loss_weight.video)
        require(
            min(weights) >= 0 and max(weights) > 0,
            f"loss_weight={self.loss_weight}: give numbers of 0 or more, at least one of them above 0",
        )
        require(self.timestep_scale > 0, f"timestep_scale={self.timestep_scale} is not positive")
        require(self.min_snr_gamma >= 0, f"min_snr_gamma={self.min_snr_gamma} is negative; 0 turns the weighting off")
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
