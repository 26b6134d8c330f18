"""The frozen autoencoders and text encoders as pure functions of (params, inputs).

`codecs.Codecs` walks NumPy batches through the compiled networks; `train.encode` traces the same functions into the
program of a training step. Scaling stays outside the compiled autoencoder, which `random` calibrates unscaled.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int, UInt8

from con360av_jax.base.parts import codec_factory
from con360av_jax.config.settings import ModelConfig
from con360av_jax.models import functional
from con360av_jax.models.functional import Params

AnyArray = TypeVar("AnyArray", np.ndarray, Array)
VAEEncode: TypeAlias = Callable[..., tuple[Array, Array]]
"""(params, pixels or mel (batch height width channel)) -> UNSCALED mean and standard deviation of the latent."""
VAEDecode: TypeAlias = Callable[..., Array]
"""(params, UNSCALED latent (batch height width channel)) -> pixels or mel."""
TextEncode: TypeAlias = Callable[..., Array]
"""(params, ids, mask) -> embeddings: CLAP (batch channel), CLIP (batch token channel)."""


def vae_functions(part: str, model: ModelConfig, dtype: DTypeLike = jnp.float32) -> tuple[VAEEncode, VAEDecode]:
    """Both directions of vae_audio or vae_video; `dtype` is that of activations."""
    graphdef, _ = functional.abstract(codec_factory(part, model, dtype))

    def encode(params: Params, x: Float[Array, "batch height width channel"]) -> tuple[Array, Array]:
        return functional.merge(graphdef, params).encode(x)  # pyright: ignore[reportAttributeAccessIssue]

    def decode(params: Params, z: Float[Array, "batch height width latent"]) -> Array:
        return functional.merge(graphdef, params).decode(z)  # pyright: ignore[reportAttributeAccessIssue]

    return encode, decode


@lru_cache(maxsize=16)
def compiled_vae(part: str, model: ModelConfig, dtype: DTypeLike = jnp.float32) -> tuple[VAEEncode, VAEDecode]:
    """`vae_functions`, jitted once per process, config and dtype."""
    encode, decode = vae_functions(part, model, dtype)
    return jax.jit(encode), jax.jit(decode)


def text_function(modality: str, model: ModelConfig) -> TextEncode:
    """The text encoder of a modality, in float32: it runs once per caption, and everything depends on it."""
    graphdef, _ = functional.abstract(codec_factory(f"text_{modality}", model))

    def encode(params: Params, ids: Int[Array, "batch token"], mask: Int[Array, "batch token"]) -> Array:
        # Stable Diffusion's CLIP reads padding too; only CLAP is given the mask.
        inputs = (ids, mask) if modality == "audio" else (ids,)
        return functional.apply(graphdef, params, *inputs)

    return encode


@lru_cache(maxsize=16)
def compiled_text(modality: str, model: ModelConfig) -> TextEncode:
    """`text_function`, jitted once per process and config."""
    return jax.jit(text_function(modality, model))


def pixels(frames: UInt8[AnyArray, "... 3"]) -> Float32[AnyArray, "... 3"]:
    """Bytes to [-1, 1]."""
    return frames.astype(np.float32) / np.float32(127.5) - 1


def frame_moments(
    encode: VAEEncode, params: Params, frames: UInt8[AnyArray, "batch height width 3"], scaling_factor: float
) -> tuple[Array, Array]:
    """Scaled mean and standard deviation of the latents of frames."""
    return _scaled(encode(params, pixels(frames)), scaling_factor)


def mel_moments(
    encode: VAEEncode, params: Params, mel: Float32[AnyArray, "batch time mel"], scaling_factor: float
) -> tuple[Array, Array]:
    """Scaled mean and standard deviation of the latents of log-mels."""
    return _scaled(encode(params, mel[..., None]), scaling_factor)


def _scaled(moments: tuple[Array, Array], scaling_factor: float) -> tuple[Array, Array]:
    mean, std = moments
    return mean * np.float32(scaling_factor), std * np.float32(scaling_factor)
