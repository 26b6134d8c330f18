"""Choice of the caption backend by its name."""

from con360av_jax.errors import ConfigError
from preprocess.captions.blip2_llama.backend import open_blip2_llama
from preprocess.captions.contract import CaptionBackend, CaptionSettings
from preprocess.captions.given import file_caption
from preprocess.captions.template import template_caption
from preprocess.choices import CaptionName


def open_captions(name: CaptionName, settings: CaptionSettings, frames_per_second: float) -> CaptionBackend:
    """The backend called `name`, ready for segments; its models are checked now and loaded at the first segment.

    Args:
        name: backend.
        settings: settings of "blip2+llama"; other backends take none.
        frames_per_second: frame rate of the segments.

    Raises:
        ConfigError: a model is missing, or given to a backend without models, or the prompts or device are unusable.
        CheckpointError: a model folder is missing or of another kind, or torch is not installed.
    """
    if name == "blip2+llama":
        return open_blip2_llama(settings, frames_per_second)
    if settings.faces or settings.join or settings.prompts:
        raise ConfigError(f"--captions {name} uses no models; give --captions blip2+llama or no --caption-.. options")
    return file_caption if name == "file" else template_caption
