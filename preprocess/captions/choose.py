"""The caption backend of a name, as one callable and as stages of preprocessing."""

from dataclasses import replace
from typing import TYPE_CHECKING

from con360av_jax.errors import ConfigError
from preprocess.captions.contract import CaptionBackend, CaptionName, CaptionSettings
from preprocess.captions.given import file_caption
from preprocess.captions.measured import template_caption
from preprocess.stages.work import Stage, each, there

if TYPE_CHECKING:
    from preprocess.captions.blip2_llama import ModelCaptions

CAPTION_BACKENDS: dict[CaptionName, CaptionBackend] = {
    "file": file_caption,
    "template": template_caption,
}


def open_captions(name: CaptionName, settings: CaptionSettings, frames_per_second: float) -> CaptionBackend:
    """The backend of that name; models are checked now and loaded when they are first needed.

    Args:
        name: of the backend.
        settings: of the models.
        frames_per_second: of the segments.

    Raises:
        ConfigError: a model is not given, or given in vain, or the prompts or the device cannot be used.
        CheckpointError: a model's folder is missing or of another kind, or torch is not installed.
    """
    if name == "blip2+llama":
        return open_models(settings, frames_per_second)
    if settings.faces or settings.join or settings.prompts:
        raise ConfigError(f"--captions {name} uses no models; give --captions blip2+llama or no --caption-.. options")
    return CAPTION_BACKENDS[name]


def open_models(settings: CaptionSettings, frames_per_second: float) -> "ModelCaptions":
    """Both stages of `blip2+llama`, which may also be run one after the other; raises as `open_captions` does."""
    for option, given in (("--caption-faces", settings.faces), ("--caption-join", settings.join)):
        if not given:
            raise ConfigError(f"--captions blip2+llama needs {option}: give a model's folder or its Hugging Face id")
    if settings.batch_size < 1:
        raise ConfigError(f"--caption-batch is {settings.batch_size}; give 1 or more")
    # Only here: transformers takes seconds to import and torch may not be installed.
    from preprocess.captions.blip2_llama import open_model_captions

    return open_model_captions(settings, frames_per_second)


def as_stages(captions: CaptionBackend) -> tuple[Stage, tuple[Stage, ...]]:
    """The stage that looks at a segment's panoramas, and what is left to do when these are gone."""
    own = getattr(captions, "stages", None)
    if own is not None:
        return own()
    return each("captions", lambda work: replace(work, caption=captions(there(work.segment), work.tracks))), ()


def caption_sources(captions: CaptionBackend) -> dict[str, str]:
    """What a dataset's manifest says about the models of a backend; nothing for those without models."""
    return getattr(captions, "sources", {})
