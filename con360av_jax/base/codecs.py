"""The frozen networks around diffusion over NumPy arrays: video, audio and captions to latents and back.

Each network is compiled for one small fixed batch size, and longer inputs are split into such batches: memory stays
bounded (at 256x256 one frame's widest feature map is 34 MB) and a clip of any length needs no second compilation.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache, partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from con360av_jax.base.networks import compiled_text, compiled_vae, frame_moments, mel_moments
from con360av_jax.base.parts import codec_factory
from con360av_jax.base.pretrained import Pretrained
from con360av_jax.base.tokenizer import tokenise
from con360av_jax.config.settings import Config, ModelConfig
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.models import functional
from con360av_jax.models.functional import Params

FRAMES_AT_ONCE = 8
CAPTIONS_AT_ONCE = 8

Moments: TypeAlias = tuple[Float32[np.ndarray, "... latent"], Float32[np.ndarray, "... latent"]]


@lru_cache(maxsize=16)
def _compiled_vocoder(model: ModelConfig) -> Callable[..., Array]:
    graphdef, _ = functional.abstract(codec_factory("vocoder", model))
    return jax.jit(partial(functional.apply, graphdef))


def pixel_bytes(frames: Float32[np.ndarray, "... 3"]) -> UInt8[np.ndarray, "... 3"]:
    """[-1, 1] to bytes, clipped."""
    return np.clip(np.rint((frames + 1) * 127.5), 0, 255).astype(np.uint8)


def in_batches(array: np.ndarray, size: int) -> Iterable[np.ndarray]:
    """Batches of `size` rows; the last one is padded with copies of its last row."""
    for start in range(0, len(array), size):
        part = array[start : start + size]
        yield np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])


class Codecs:
    """Encoders and decoders of a pretrained folder; each network is read and compiled at its first use.

    Latents carry their VAE's scaling_factor, so that diffusion sees about unit variance: latent = mean + std * noise.
    Text encoders and vocoder run once per clip and compute in float32.
    """

    def __init__(self, pretrained: Pretrained, vae_dtype: str = "float32"):
        """`vae_dtype`: dtype of the VAEs' activations; "bfloat16" is faster on GPUs and slower on CPUs."""
        self.pretrained = pretrained
        self._vae_dtype = jnp.dtype(vae_dtype)

    @property
    def config(self) -> Config:
        return self.pretrained.config

    @cached_property
    def _params(self) -> Callable[[str], Params]:
        return lru_cache(maxsize=None)(self.pretrained.params)

    def encode_text(self, captions: Sequence[str]) -> dict[str, Float32[np.ndarray, "batch ..."]]:
        """{"audio": CLAP embeddings (batch, channel), "video": CLIP hidden states (batch, token, channel)}."""
        return {name: self._encode_captions(name, captions) for name in MODALITIES}

    def _encode_captions(self, modality: str, captions: Sequence[str]) -> np.ndarray:
        encode, params = compiled_text(modality, self.config.model), self._params(f"text_{modality}")
        length = getattr(self.config.model.text, modality).tokens
        ids, mask = tokenise(self.pretrained.tokenizers[modality], captions, length)
        # One caption alone is the common case and must not cost a whole batch.
        size = 1 if len(captions) == 1 else CAPTIONS_AT_ONCE
        batches = zip(in_batches(ids, size), in_batches(mask, size), strict=True)
        parts = [np.asarray(encode(params, *batch)) for batch in batches]
        return np.concatenate(parts)[: len(captions)]

    def encode_video(self, video: UInt8[np.ndarray, "frame height width 3"]) -> Moments:
        """Mean and standard deviation of a clip's latent, each (frame, height, width, channel)."""
        return self._encode("video", frame_moments, video, FRAMES_AT_ONCE)

    def encode_mel(self, mel: Float32[np.ndarray, "time mel"]) -> Moments:
        """Mean and standard deviation of a clip's audio latent, each (time, mel, channel)."""
        mean, std = self._encode("audio", mel_moments, mel[None].astype(np.float32), 1)
        return mean[0], std[0]

    def read_decoders(self) -> None:
        """Reads all that decodes now: in a run of several processes, all of them have to read a part together."""
        for part in ("vae_video", "vae_audio", "vocoder"):
            self._params(part)

    def decode_video(self, latent: Float[np.ndarray, "frame height width channel"]) -> UInt8[np.ndarray, "frame h w 3"]:
        """Frames of a video latent."""
        return pixel_bytes(self._decode("video", latent, FRAMES_AT_ONCE))

    def decode_mel(self, latent: Float[np.ndarray, "time mel channel"]) -> Float32[np.ndarray, "long bands"]:
        """The log-mel of an audio latent."""
        return self._decode("audio", np.asarray(latent)[None], 1)[0, :, :, 0]

    def vocode(self, mel: Float32[np.ndarray, "time mel"]) -> Float32[np.ndarray, " sample"]:
        """Mono audio of a log-mel, in [-1, 1] at the mel's sample rate."""
        return np.asarray(_compiled_vocoder(self.config.model)(self._params("vocoder"), mel[None]))[0]

    def decode_audio(self, latent: Float[np.ndarray, "time mel channel"]) -> Float32[np.ndarray, " sample"]:
        """Mono audio of an audio latent, in [-1, 1] at the mel's sample rate."""
        return self.vocode(self.decode_mel(latent))

    def _encode(self, modality: str, moments: Callable[..., tuple[Array, Array]], x: np.ndarray, size: int) -> Moments:
        part, factor = f"vae_{modality}", getattr(self.config.model.vae, modality).scaling_factor
        encode, _ = compiled_vae(part, self.config.model, self._vae_dtype)
        found = [jax.device_get(moments(encode, self._params(part), rows, factor)) for rows in in_batches(x, size)]
        mean, std = (np.concatenate(rows)[: len(x)] for rows in zip(*found, strict=True))
        return mean, std

    def _decode(self, modality: str, latent: np.ndarray, size: int) -> np.ndarray:
        part, factor = f"vae_{modality}", np.float32(getattr(self.config.model.vae, modality).scaling_factor)
        _, decode = compiled_vae(part, self.config.model, self._vae_dtype)
        latent = np.asarray(latent, np.float32) / factor
        decoded = [np.asarray(decode(self._params(part), batch)) for batch in in_batches(latent, size)]
        return np.concatenate(decoded)[: len(latent)]
