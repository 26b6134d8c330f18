"""Dimension names and shapes that follow from a config.

Dimension names: batch, frame (video), height, width, channel; time (mel or audio latent frames), mel (bands),
token, sample (of a waveform). Layout is channels-last everywhere.
"""

import math

from con360av_jax.config.settings import Config

MODALITIES = ("audio", "video")

# Three halvings inside either U-Net: the audio latent's time axis is padded to a multiple of this.
UNET_FACTOR = 8


def mel_frames(config: Config) -> int:
    """Returns the number of mel frames in one segment."""
    return config.clip.seconds * config.mel.frames_per_second


def audio_samples(config: Config) -> int:
    """Returns the number of audio samples in one segment."""
    return config.clip.seconds * config.mel.sample_rate


def latent_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Returns the latent shapes of one sample: audio (time, mel, channel), video (frame, height, width, channel)."""
    audio, video = config.model.vae.audio, config.model.vae.video
    return {
        "audio": (mel_frames(config) // audio.factor, config.mel.bands // audio.factor, audio.latent_channels),
        "video": (
            config.clip.frames,
            config.clip.height // video.factor,
            config.clip.width // video.factor,
            video.latent_channels,
        ),
    }


def text_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Returns the text embedding shapes of one caption: audio (CLAP channel,), video (CLIP token, channel)."""
    return {
        "audio": (config.model.text.audio.projection,),
        "video": (config.model.text.video.tokens, config.model.text.video.width),
    }


def maps_shape(config: Config) -> tuple[int, ...]:
    """Returns the shape of the saliency and BASD maps of one sample: (frame, height, width, 2)."""
    return (config.clip.frames, config.clip.map_height, config.clip.map_width, 2)


def padded_time(time: int) -> int:
    """Rounds a number of audio latent frames up to a multiple of the U-Net's downsampling (100 -> 104)."""
    return math.ceil(time / UNET_FACTOR) * UNET_FACTOR
