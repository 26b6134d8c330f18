"""The objectives of pretraining by the name of their part."""

from collections.abc import Callable

from con360av_jax.config.pretraining import Part
from con360av_jax.config.settings import Config
from con360av_jax.train.objectives import (
    judge_audio,
    judge_video,
    motion,
    text,
    unet_audio,
    unet_video,
    vae_audio,
    vae_video,
    vocoder,
)
from con360av_jax.train.objectives.objective import Objective

_OBJECTIVES: dict[Part, Callable[[Config], Objective]] = {
    "vae_video": vae_video.objective,
    "vae_audio": vae_audio.objective,
    "vocoder": vocoder.objective,
    "text_video": text.video,
    "text_audio": text.audio,
    "unet_video": unet_video.objective,
    "motion": motion.objective,
    "unet_audio": unet_audio.objective,
    "judge_video": judge_video.objective,
    "judge_audio": judge_audio.objective,
}


def make_objective(part: Part, config: Config) -> Objective:
    """Returns the objective of a part; raises ConfigError if the config does not fit it."""
    return _OBJECTIVES[part](config)
