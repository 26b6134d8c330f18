"""Frozen encoders on the device for datasets without latents: raw batches to training batches.

A dataset of encoded records needs none of this and trains faster: every clip is encoded once, not once per epoch. In
float32 the numbers equal those of `codecs.Codecs`, which writes the encoded records; text embeddings always do.
"""

import threading
from collections.abc import Callable
from typing import TypeAlias, TypedDict

import jax
from einops import rearrange
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from con360av_jax.base.networks import frame_moments, mel_moments, text_function, vae_functions
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
    """A batch of a dataset without encoded fields (`transforms.RawExample`), on the device."""

    video: UInt8[Array, "batch frame height width 3"]
    mel: Float[Array, "batch time mel"]
    tokens: dict[str, dict[str, Array]]
    """By modality, "ids" (batch token) and "mask" (batch token)."""
    maps: Array
    viewpoint: Array
    sample_id: Array


Encode: TypeAlias = Callable[[RawBatch], Batch]


def make_encode(config: Config, dtype: DTypeLike) -> Callable[[dict[str, Params], RawBatch], Batch]:
    """A pure function (params, raw batch) -> batch for `jax.jit`; `params` holds the parameters of each of ENCODERS.

    The VAEs compute in `dtype`, the text encoders in float32; a batch is float32. The VAE encodes frame after frame,
    each for the whole batch: memory is that of one frame per sample.
    """
    vae = config.model.vae
    encode_mel, _ = vae_functions("vae_audio", config.model, dtype)
    encode_frames, _ = vae_functions("vae_video", config.model, dtype)
    embed = {name: text_function(name, config.model) for name in MODALITIES}

    def encode(params: dict[str, Params], raw: RawBatch) -> Batch:
        def one_frame(frames: UInt8[Array, "batch height width 3"]) -> tuple[Array, Array]:
            return frame_moments(encode_frames, params["vae_video"], frames, vae.video.scaling_factor)

        frames = rearrange(raw["video"], "batch frame height width channel -> frame batch height width channel")
        by_frame = jax.lax.map(one_frame, frames)
        moments = {
            "audio": mel_moments(encode_mel, params["vae_audio"], raw["mel"], vae.audio.scaling_factor),
            "video": tuple(rearrange(moment, "frame batch ... -> batch frame ...") for moment in by_frame),
        }
        return Batch(
            moments={name: {"mean": mean, "std": std} for name, (mean, std) in moments.items()},
            text={
                name: embed[name](params[f"text_{name}"], tokens["ids"], tokens["mask"])
                for name, tokens in raw["tokens"].items()
            },
            maps=raw["maps"],
            viewpoint=raw["viewpoint"],
            sample_id=raw["sample_id"],
        )

    return encode


def open_encode(pretrained: Pretrained, mesh: Mesh, dtype: DTypeLike) -> Encode:
    """`make_encode` with VAEs in `dtype`, compiled for `mesh`: the batch is split over it, encoders are replicated.

    Raises CheckpointError if a part of the base is corrupt.
    """
    everywhere, split = replicate(mesh), batch_sharding(mesh)
    params = {}
    for part in ENCODERS:
        _, shapes = functional.abstract(codec_factory(part, pretrained.config.model))
        params[part] = pretrained.params(part, jax.tree.map(lambda _: everywhere, shapes))
    encode = jax.jit(make_encode(pretrained.config, dtype), in_shardings=(everywhere, split), out_shardings=split)
    return lambda raw: encode(params, raw)


def caption_tokens(pretrained: Pretrained) -> Tokenise:
    """A thread-safe function from a caption to its tokens by modality, for the loader's threads."""
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
