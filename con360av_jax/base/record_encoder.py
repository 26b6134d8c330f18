"""Encoding of records: views, mels and captions through the frozen encoders, each mel and caption once."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from con360av_jax.config.settings import Config
from con360av_jax.data.encoding import Encoder, Mel, NoEncoder, View
from con360av_jax.data.schema import ENCODED_FIELDS
from con360av_jax.errors import CheckpointError, ConfigError
from con360av_jax.runtime.packaged import find_model


class PretrainedEncoder:
    """The VAEs and text encoders of a pretrained folder.

    Raises:
        CheckpointError: the folder is missing or no pretrained folder.
        ConfigError: its encoders take other views, mels or captions than `config` describes.
    """

    fields: tuple[str, ...] = ENCODED_FIELDS

    def __init__(self, folder: Path, config: Config):
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such pretrained folder; check --base, or use --base none")
        # Imported here so that JAX does not start when raw datasets are written.
        from con360av_jax.base.codecs import Codecs
        from con360av_jax.base.pretrained import open_pretrained

        pretrained = open_pretrained(folder)
        for part, made, asked in (
            ("model.vae", pretrained.config.model.vae, config.model.vae),
            ("model.text", pretrained.config.model.text, config.model.text),
            ("mel", pretrained.config.mel, config.mel),
        ):
            if made != asked:
                raise ConfigError(
                    f"{folder}: was made with other settings of {part} than config {config.name!r}; "
                    f"use its own config: --config {folder / 'config.json'}"
                )
        # Pickled as these arguments: another process opens the folder instead of receiving weights and programs.
        self._opened_from = (folder, config)
        self._codecs = Codecs(pretrained)
        self._text = lru_cache(maxsize=64)(self._encode_text)
        self._mel: tuple[np.ndarray, dict[str, np.ndarray]] | None = None

    def __reduce__(self) -> tuple:
        return PretrainedEncoder, self._opened_from

    def __call__(self, view: View, mel: Mel, caption: str) -> dict[str, np.ndarray]:
        """Scaled VAE moments and text embeddings."""
        mean, std = self._codecs.encode_video(view)
        moments = {"video_latent_mean": np.asarray(mean), "video_latent_std": np.asarray(std)}
        return moments | self._audio(mel) | self._text(caption)

    def _audio(self, mel: Mel) -> dict[str, np.ndarray]:
        """Scaled VAE moments of a mel; the viewpoints of a segment share one mel, which is encoded once."""
        if self._mel is None or self._mel[0] is not mel:
            mean, std = self._codecs.encode_mel(mel)
            self._mel = (mel, {"audio_latent_mean": np.asarray(mean), "audio_latent_std": np.asarray(std)})
        return self._mel[1]

    def _encode_text(self, caption: str) -> dict[str, np.ndarray]:
        text = self._codecs.encode_text([caption])
        return {"clap_text": np.asarray(text["audio"])[0], "clip_text": np.asarray(text["video"])[0]}


def open_encoder(base: str, config: Config) -> Encoder:
    """The encoders of the pretrained folder `base`, or no encoder for "none"; raises as PretrainedEncoder does."""
    return NoEncoder() if base == "none" else PretrainedEncoder(find_model(base), config)
