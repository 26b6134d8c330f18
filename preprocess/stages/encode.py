"""Stage 7, encode: views, mels and captions through the frozen encoders, each caption once."""

from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax.config.settings import Config
from con360av_jax.data.schema import ENCODED_FIELDS
from con360av_jax.errors import CheckpointError, ConfigError


class Encoder(Protocol):
    """Arrays named `fields` from one view, its sound and its caption."""

    fields: tuple[str, ...]

    def __call__(
        self,
        view: UInt8[np.ndarray, "frame height width 3"],
        mel: Float32[np.ndarray, "time mel"],
        caption: str,
    ) -> dict[str, np.ndarray]: ...


class NoEncoder:
    """Encodes nothing: records hold raw pictures and sound."""

    fields: tuple[str, ...] = ()

    def __call__(
        self,
        view: UInt8[np.ndarray, "frame height width 3"],
        mel: Float32[np.ndarray, "time mel"],
        caption: str,
    ) -> dict[str, np.ndarray]:
        """No arrays."""
        return {}


class PretrainedEncoder:
    """The VAEs and text encoders of a pretrained folder.

    Raises CheckpointError if the folder is missing or no pretrained folder, ConfigError if its encoders read another
    kind of view, mel or caption.
    """

    fields: tuple[str, ...] = ENCODED_FIELDS

    def __init__(self, folder: Path, config: Config):
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such pretrained folder; check --base, or use --base none")
        # JAX starts here and not at import: raw datasets are written without it.
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
        # Another process opens the folder itself instead of being sent weights and compiled programs.
        self._opened_from = (folder, config)
        self._codecs = Codecs(pretrained)
        self._text = lru_cache(maxsize=64)(self._encode_text)
        self._mel: tuple[np.ndarray, dict[str, np.ndarray]] | None = None

    def __reduce__(self) -> tuple:
        return PretrainedEncoder, self._opened_from

    def __call__(
        self,
        view: UInt8[np.ndarray, "frame height width 3"],
        mel: Float32[np.ndarray, "time mel"],
        caption: str,
    ) -> dict[str, np.ndarray]:
        """Scaled VAE moments and text embeddings."""
        mean, std = self._codecs.encode_video(view)
        moments = {"video_latent_mean": np.asarray(mean), "video_latent_std": np.asarray(std)}
        return moments | self._sound(mel) | self._text(caption)

    def _sound(self, mel: Float32[np.ndarray, "time mel"]) -> dict[str, np.ndarray]:
        """All viewpoints of a segment share one mel, which is encoded once."""
        if self._mel is None or self._mel[0] is not mel:
            mean, std = self._codecs.encode_mel(mel)
            self._mel = (mel, {"audio_latent_mean": np.asarray(mean), "audio_latent_std": np.asarray(std)})
        return self._mel[1]

    def _encode_text(self, caption: str) -> dict[str, np.ndarray]:
        text = self._codecs.encode_text([caption])
        return {"clap_text": np.asarray(text["audio"])[0], "clip_text": np.asarray(text["video"])[0]}


def open_encoder(base: str, config: Config) -> Encoder:
    """The encoders of the pretrained folder `base`, or none for "none"; raises as PretrainedEncoder."""
    return NoEncoder() if base == "none" else PretrainedEncoder(Path(base), config)
