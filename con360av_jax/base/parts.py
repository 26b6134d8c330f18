"""Names of a pretrained folder's networks and of the judges, and their factories from a config."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from con360av_jax.config.networks import ModelConfig
from con360av_jax.config.pretraining import JUDGES, TOWERS, PretrainConfig
from con360av_jax.config.settings import Config
from con360av_jax.models import functional
from con360av_jax.models.contrast import ContrastTower
from con360av_jax.models.functional import Params
from con360av_jax.models.joint import JointModel
from con360av_jax.models.judge import AudioJudge, VideoJudge
from con360av_jax.models.text import ClapTextModel, ClipTextModel
from con360av_jax.models.vae import AutoencoderKL
from con360av_jax.models.vocoder import HiFiGAN
from con360av_jax.scenes.scene import CLASSES
from con360av_jax.scenes.textures import PALETTES

PARTS = ("joint", "vae_audio", "vae_video", "text_audio", "text_video", "vocoder")


def part_factory(part: str, config: Config) -> Callable[[nnx.Rngs], nnx.Module]:
    """Factory of the network `part` (one of PARTS, JUDGES or TOWERS) with float32 parameters."""
    if part == "joint":
        return lambda rngs: JointModel(config.model, rngs=rngs)
    if part in JUDGES:
        return judge_factory(part, config.pretrain, config.mel.bands)
    if part in TOWERS:
        return tower_factory(part, config)
    return codec_factory(part, config.model)


def shapes_below(path: str, config: Config) -> Params:
    """Shapes of the parameters of a part, or of those below a path in it such as "joint/unet/video"."""
    part, *below = path.split("/")
    _, shapes = functional.abstract(part_factory(part, config))
    for name in below:
        shapes = shapes[name]
    return shapes


def nested(path: str, params: Params) -> Params:
    """Parameters below `path` as a nested dict that begins with the part."""
    for name in reversed(path.split("/")):
        params = {name: params}
    return params


def codec_factory(part: str, model: ModelConfig, dtype: DTypeLike = jnp.float32) -> Callable[[nnx.Rngs], nnx.Module]:
    """Factory of vae_audio, vae_video, text_audio, text_video or vocoder.

    `dtype` is that of activations; parameters and outputs are float32.
    """
    factories: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
        "vae_audio": lambda rngs: AutoencoderKL(model.vae.audio, rngs=rngs, dtype=dtype),
        "vae_video": lambda rngs: AutoencoderKL(model.vae.video, rngs=rngs, dtype=dtype),
        "text_audio": lambda rngs: ClapTextModel(model.text.audio, rngs=rngs, dtype=dtype),
        "text_video": lambda rngs: ClipTextModel(model.text.video, rngs=rngs, dtype=dtype),
        "vocoder": lambda rngs: HiFiGAN(model.vocoder, rngs=rngs, dtype=dtype),
    }
    return factories[part]


def judge_factory(part: str, settings: PretrainConfig, bands: int) -> Callable[[nnx.Rngs], nnx.Module]:
    """Factory of judge_video or judge_audio, which reads log-mels of so many bands."""
    video, audio = settings.judge_video, settings.judge_audio
    if part == "judge_video":
        return lambda rngs: VideoJudge(video.widths, video.size, len(CLASSES), len(PALETTES), rngs=rngs)
    return lambda rngs: AudioJudge(audio.widths, audio.features, bands, len(CLASSES), rngs=rngs)


def tower_factory(part: str, config: Config) -> Callable[[nnx.Rngs], nnx.Module]:
    """Factory of tower_video or tower_audio, whose output is as wide as that of the text encoder."""
    text, pretrain = config.model.text, config.pretrain
    if part == "tower_video":
        video = pretrain.text_video
        return lambda rngs: ContrastTower(3, video.size, video.widths, text.video.width, rngs=rngs)
    widths = pretrain.text_audio.widths
    return lambda rngs: ContrastTower(1, config.mel.bands, widths, text.audio.projection, rngs=rngs)
