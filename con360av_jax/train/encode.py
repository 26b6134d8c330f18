"""The frozen encoders on the device, for datasets that hold pictures and sound alone: raw batches to training batches.

A dataset of encoded records needs none of this, and trains faster: every clip is encoded once instead of once an epoch.
In float32 the numbers are those of `codecs.Codecs`, which writes the encoded records.
"""

import threading
from collections.abc import Callable
from typing import Protocol, TypeAlias, TypedDict, runtime_checkable

import jax
import numpy as np
from einops import rearrange
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from con360av_jax.base.codecs import vae_functions
from con360av_jax.base.parts import codec_factory
from con360av_jax.base.pretrained import Pretrained
from con360av_jax.base.tokenizer import tokenise
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.data.transforms import CaptionTokens, Tokenise
from con360av_jax.diffusion.loss import Batch
from con360av_jax.models import functional
from con360av_jax.models.functional import Params
from con360av_jax.sharding import batch_sharding, replicate

ENCODERS = ("vae_audio", "vae_video", "text_audio", "text_video")


class RawBatch(TypedDict):
    """What the loader gives for a dataset without encoded fields (`transforms.RawExample`), on the device."""

    video: UInt8[Array, "batch frame height width 3"]
    mel: Float[Array, "batch time mel"]
    tokens: dict[str, dict[str, Array]]
    """By modality, "ids" (batch token) and "mask" (batch token)."""
    maps: Array
    viewpoint: Array
    sample_id: Array


Encode: TypeAlias = Callable[[RawBatch], Batch]


@runtime_checkable
class EncodeBatch(Protocol):
    """See `make_encode`."""

    def __call__(self, params: dict[str, Params], raw: RawBatch, /) -> Batch: ...


def make_encode(config: Config, dtype: DTypeLike) -> EncodeBatch:
    """A pure function (params, raw batch) -> batch for `jax.jit`; `params` holds the parameters of each of ENCODERS.

    The encoders compute in `dtype`; a batch is float32.

    Frame after frame goes through the VAE, each with the whole batch: memory is that of one frame per sample.
    """
    encode_mel, _ = vae_functions("vae_audio", config.model, dtype)
    encode_frames, _ = vae_functions("vae_video", config.model, dtype)
    embed = {name: functional.abstract(codec_factory(f"text_{name}", config.model, dtype))[0] for name in MODALITIES}
    factors = {name: np.float32(getattr(config.model.vae, name).scaling_factor) for name in MODALITIES}

    def encode(params: dict[str, Params], raw: RawBatch, /) -> Batch:
        def frame_moments(frames: UInt8[Array, "batch height width 3"]) -> tuple[Array, Array]:
            # As codecs.pixels.
            return encode_frames(params["vae_video"], frames.astype(np.float32) / np.float32(127.5) - 1)

        frames = rearrange(raw["video"], "batch frame height width channel -> frame batch height width channel")
        by_frame = jax.lax.map(frame_moments, frames)
        video = tuple(rearrange(moment, "frame batch ... -> batch frame ...") for moment in by_frame)
        moments = {"audio": encode_mel(params["vae_audio"], raw["mel"][..., None]), "video": video}
        tokens = raw["tokens"]
        # As codecs.Codecs: Stable Diffusion's CLIP reads padding too; only CLAP is given the mask.
        inputs = {"audio": (tokens["audio"]["ids"], tokens["audio"]["mask"]), "video": (tokens["video"]["ids"],)}
        return Batch(
            moments={
                name: {"mean": mean * factors[name], "std": std * factors[name]}
                for name, (mean, std) in moments.items()
            },
            text={name: functional.apply(embed[name], params[f"text_{name}"], *inputs[name]) for name in MODALITIES},
            maps=raw["maps"],
            viewpoint=raw["viewpoint"],
            sample_id=raw["sample_id"],
        )

    return encode


def open_encode(pretrained: Pretrained, mesh: Mesh, dtype: DTypeLike) -> Encode:
    """`make_encode` in `dtype` compiled for `mesh`: the batch is split over it, the encoders lie whole on every device.

    Raises CheckpointError if a part of the base is damaged.
    """
    everywhere, split = replicate(mesh), batch_sharding(mesh)
    params = {}
    for part in ENCODERS:
        _, shapes = functional.abstract(codec_factory(part, pretrained.config.model))
        params[part] = pretrained.params(part, jax.tree.map(lambda _: everywhere, shapes))
    encode = jax.jit(make_encode(pretrained.config, dtype), in_shardings=(everywhere, split), out_shardings=split)
    return lambda raw: encode(params, raw)


def caption_tokens(pretrained: Pretrained) -> Tokenise:
    """What turns a caption into tokens in the loader's threads."""
    text = pretrained.config.model.text
    # A tokenizer sets padding and truncation on itself before each call.
    lock = threading.Lock()

    def tokens_of(caption: str) -> dict[str, CaptionTokens]:
        tokens: dict[str, CaptionTokens] = {}
        with lock:
            for name in MODALITIES:
                ids, mask = tokenise(pretrained.tokenizers[name], [caption], getattr(text, name).tokens)
                tokens[name] = CaptionTokens(ids=ids[0], mask=mask[0])
        return tokens

    return tokens_of
