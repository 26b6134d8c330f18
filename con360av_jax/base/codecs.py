"""The frozen networks around diffusion as functions over numpy: captions, pictures, mels and sound to latents and back.

Each network is compiled for one small fixed batch, over which longer inputs are walked: memory stays bounded (at
256x256 one frame's widest feature map is 34 MB) and a clip of any length needs no second compilation.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, UInt8

from con360av_jax.base.parts import codec_factory
from con360av_jax.base.pretrained import Pretrained
from con360av_jax.base.tokenizer import tokenise
from con360av_jax.config.settings import Config, ModelConfig
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.models import functional
from con360av_jax.models.functional import Params

FRAMES_AT_ONCE = 8
CAPTIONS_AT_ONCE = 8

VAEFunctions: TypeAlias = tuple[Callable[..., tuple[Array, Array]], Callable[..., Array]]
Moments: TypeAlias = tuple[Float32[np.ndarray, "... latent"], Float32[np.ndarray, "... latent"]]


def vae_functions(part: str, model: ModelConfig, dtype: DTypeLike = jnp.float32) -> VAEFunctions:
    """(encode, decode) of vae_audio or vae_video as pure functions of (params, input); latents are UNSCALED."""
    graphdef, _ = functional.abstract(codec_factory(part, model, dtype))

    def encode(params: Params, x: Float[Array, "batch height width channel"]) -> tuple[Array, Array]:
        return functional.merge(graphdef, params).encode(x)  # pyright: ignore[reportAttributeAccessIssue]

    def decode(params: Params, z: Float[Array, "batch height width latent"]) -> Array:
        return functional.merge(graphdef, params).decode(z)  # pyright: ignore[reportAttributeAccessIssue]

    return encode, decode


@lru_cache(maxsize=16)
def compiled_vae(part: str, model: ModelConfig, dtype: DTypeLike = jnp.float32) -> VAEFunctions:
    """`vae_functions`, jitted once per process, config and dtype."""
    encode, decode = vae_functions(part, model, dtype)
    return jax.jit(encode), jax.jit(decode)


@lru_cache(maxsize=16)
def compiled(part: str, model: ModelConfig) -> Callable[..., Array]:
    """A text encoder or the vocoder as a jitted function of (params, *inputs)."""
    graphdef, _ = functional.abstract(codec_factory(part, model))
    return jax.jit(lambda params, *inputs: functional.apply(graphdef, params, *inputs))


def pixels(frames: UInt8[np.ndarray, "... 3"]) -> Float32[np.ndarray, "... 3"]:
    """Bytes to [-1, 1]."""
    return frames.astype(np.float32) / np.float32(127.5) - 1


def picture(frames: Float32[np.ndarray, "... 3"]) -> UInt8[np.ndarray, "... 3"]:
    """[-1, 1] to bytes; what lies outside is clipped."""
    return np.clip(np.rint((frames + 1) * 127.5), 0, 255).astype(np.uint8)


def in_batches(array: np.ndarray, size: int) -> Iterable[np.ndarray]:
    """Parts of `size` rows, the last one filled up with repetitions of its last row."""
    for start in range(0, len(array), size):
        part = array[start : start + size]
        yield np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])


class Codecs:
    """Encoders and decoders of a pretrained folder; a network is read and compiled at its first use.

    Latents carry their VAE's scaling_factor, so that diffusion sees about unit variance: latent = mean + std * noise.
    Text encoders and vocoder run once per clip and compute in float32.
    """

    def __init__(self, pretrained: Pretrained, vae_dtype: str = "float32"):
        """`vae_dtype` is that of the VAEs' activations, "bfloat16" being faster on GPUs and slower on CPUs."""
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
        part = f"text_{modality}"
        encode, length = compiled(part, self.config.model), getattr(self.config.model.text, modality).tokens
        ids, mask = tokenise(self.pretrained.tokenizers[modality], captions, length)
        # Stable Diffusion's CLIP reads padding too; only CLAP is given the mask.
        inputs = (ids, mask) if modality == "audio" else (ids,)
        # One caption alone is the common case and must not cost a whole batch.
        size = 1 if len(captions) == 1 else CAPTIONS_AT_ONCE
        batches = zip(*(in_batches(array, size) for array in inputs), strict=True)
        parts = [np.asarray(encode(self._params(part), *batch)) for batch in batches]
        return np.concatenate(parts)[: len(captions)]

    def encode_video(self, video: UInt8[np.ndarray, "frame height width 3"]) -> Moments:
        """Mean and standard deviation of a clip's latent, each (frame, height, width, channel)."""
        return self._encode("video", pixels(video), FRAMES_AT_ONCE)

    def encode_mel(self, mel: Float32[np.ndarray, "time mel"]) -> Moments:
        """Mean and standard deviation of a clip's audio latent, each (time, mel, channel)."""
        mean, std = self._encode("audio", mel[None, :, :, None].astype(np.float32), 1)
        return mean[0], std[0]

    def decode_video(self, latent: Float[np.ndarray, "frame height width channel"]) -> UInt8[np.ndarray, "frame h w 3"]:
        """The pictures of a video latent."""
        return picture(self._decode("video", latent, FRAMES_AT_ONCE))

    def decode_mel(self, latent: Float[np.ndarray, "time mel channel"]) -> Float32[np.ndarray, "long bands"]:
        """The log-mel of an audio latent."""
        return self._decode("audio", np.asarray(latent)[None], 1)[0, :, :, 0]

    def vocode(self, mel: Float32[np.ndarray, "time mel"]) -> Float32[np.ndarray, " sample"]:
        """The sound of a log-mel, in [-1, 1] at the mel's sample rate."""
        return np.asarray(compiled("vocoder", self.config.model)(self._params("vocoder"), mel[None]))[0]

    def decode_sound(self, latent: Float[np.ndarray, "time mel channel"]) -> Float32[np.ndarray, " sample"]:
        """The sound of an audio latent, in [-1, 1] at the mel's sample rate."""
        return self.vocode(self.decode_mel(latent))

    def _encode(self, modality: str, x: np.ndarray, size: int) -> Moments:
        part, factor = f"vae_{modality}", np.float32(getattr(self.config.model.vae, modality).scaling_factor)
        encode, _ = compiled_vae(part, self.config.model, self._vae_dtype)
        moments = [jax.device_get(encode(self._params(part), batch)) for batch in in_batches(x, size)]
        mean, std = (np.concatenate(rows)[: len(x)] * factor for rows in zip(*moments, strict=True))
        return mean, std

    def _decode(self, modality: str, latent: np.ndarray, size: int) -> np.ndarray:
        part, factor = f"vae_{modality}", np.float32(getattr(self.config.model.vae, modality).scaling_factor)
        _, decode = compiled_vae(part, self.config.model, self._vae_dtype)
        latent = np.asarray(latent, np.float32) / factor
        decoded = [np.asarray(decode(self._params(part), batch)) for batch in in_batches(latent, size)]
        return np.concatenate(decoded)[: len(latent)]
