"""The converted networks of a pretrained folder: how to call them, random inputs, and a hook on their layers.

Inputs, float32 unless stated: x and z in the networks' layout, timesteps (batch) int32, text, tokens (batch token)
int32, mask (batch token) bool, mel (batch time band).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from con360av_jax.base.parts import part_factory
from con360av_jax.base.pretrained import Pretrained
from con360av_jax.config.settings import Config, ModelConfig
from con360av_jax.models.functional import Params
from con360av_jax.models.unet import UNet

Arrays = dict[str, np.ndarray]
FLOAT32 = jnp.dtype(jnp.float32)
# Small, not square, and with more than one of everything, so that a swapped axis is noticed.
BATCH, LATENT = 2, (16, 8)
CONTEXT_TOKENS, CAPTION_TOKENS, MEL_FRAMES = 7, 64, 12


@dataclass(frozen=True, kw_only=True)
class Network:
    """Place of one component in a pretrained folder, how to call it, and its inputs."""

    part: str
    """Part of the pretrained folder (con360av_jax.base.parts.PARTS)."""
    below: tuple[str, ...] = ()
    """Path of the component in the part's parameters."""
    make: Callable[[Config, nnx.Rngs], nnx.Module]
    run: Callable[[Any, Mapping[str, Any]], dict[str, Array]]
    """Maps (module, inputs) to named outputs."""
    inputs: Callable[[ModelConfig, np.random.Generator], Arrays]

    def params(self, pretrained: Pretrained) -> Params:
        """Parameters of the component in float32, whatever dtype is stored."""
        params = pretrained.params(self.part, below=self.below)
        return jax.tree.map(lambda leaf: leaf.astype(FLOAT32), params)


def _unet(name: str) -> Network:
    def make(config: Config, rngs: nnx.Rngs) -> UNet:
        return UNet(getattr(config.model, f"unet_{name}"), rngs=rngs, dtype=FLOAT32)

    def inputs(model: ModelConfig, random: np.random.Generator) -> Arrays:
        frames, channels = 1, model.unet_audio.latent_channels
        text = (BATCH, model.unet_audio.class_width)
        if name == "video":
            # All of them, since a positional encoding may differ at the last only.
            frames, channels = model.unet_video.motion_max_frames, model.unet_video.latent_channels
            text = (BATCH, CONTEXT_TOKENS, model.unet_video.context_width)
        return {
            "x": _normal(random, BATCH, frames, *LATENT, channels),
            "timesteps": random.integers(1, 1000, BATCH).astype(np.int32),
            "text": _normal(random, *text),
        }

    return Network(
        part="joint",
        below=("unet", name),
        make=make,
        run=lambda unet, given: {"noise": unet(given["x"], given["timesteps"], given["text"])},
        inputs=inputs,
    )


def _vae(name: str) -> Network:
    def inputs(model: ModelConfig, random: np.random.Generator) -> Arrays:
        vae, (height, width) = getattr(model.vae, name), LATENT
        return {
            "x": _normal(random, BATCH, height // 2 * vae.factor, width // 2 * vae.factor, vae.in_channels),
            "z": _normal(random, BATCH, height // 2, width // 2, vae.latent_channels),
        }

    def run(vae: Any, given: Mapping[str, Any]) -> dict[str, Array]:
        mean, std = vae.encode(given["x"])
        return {"mean": mean, "std": std, "decoded": vae.decode(given["z"])}

    return _codec(f"vae_{name}", run, inputs)


def _codec(
    part: str,
    run: Callable[[Any, Mapping[str, Any]], dict[str, Array]],
    inputs: Callable[[ModelConfig, np.random.Generator], Arrays],
) -> Network:
    return Network(part=part, make=lambda config, rngs: part_factory(part, config)(rngs), run=run, inputs=inputs)


def _captions(name: str) -> Callable[[ModelConfig, np.random.Generator], Arrays]:
    def inputs(model: ModelConfig, random: np.random.Generator) -> Arrays:
        text = getattr(model.text, name)
        shape = (BATCH, min(CAPTION_TOKENS, text.tokens))
        tokens = (text.pad_token + random.integers(1, text.vocabulary, shape)) % text.vocabulary
        mask = np.ones(shape, bool)
        if name == "audio":  # the second caption is short; Stable Diffusion uses no mask
            mask[1, shape[1] // 2 :] = False
        return {"tokens": np.where(mask, tokens, text.pad_token).astype(np.int32), "mask": mask}

    return inputs


def _mel(model: ModelConfig, random: np.random.Generator) -> Arrays:
    return {"mel": 2 * _normal(random, BATCH, MEL_FRAMES, model.vocoder.mel_bands) - 4}


def _normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


NETWORKS: Mapping[str, Network] = {
    "unet_a": _unet("audio"),
    "unet_v": _unet("video"),
    "vae_a": _vae("audio"),
    "vae_v": _vae("video"),
    "text_encoder_a": _codec(
        "text_audio", lambda clap, given: {"embedding": clap(given["tokens"], given["mask"])}, _captions("audio")
    ),
    "text_encoder_v": _codec(
        "text_video", lambda clip, given: {"hidden states": clip(given["tokens"])}, _captions("video")
    ),
    "vocoder": _codec("vocoder", lambda vocoder, given: {"sound": vocoder(given["mel"])}, _mel),
}


@contextmanager
def watched(module: nnx.Module, visit: Callable[[str, Any, Mapping[str, Any]], Any]) -> Iterator[None]:
    """While open, calls `visit(path, output, keyword arguments)` for every submodule and returns its result instead.

    Patches the classes' __call__ and restores them afterwards; paths are dotted.
    """
    paths = {id(child): ".".join(map(str, path)) for path, child in nnx.iter_modules(module) if path}
    kinds = {type(child) for path, child in nnx.iter_modules(module) if path}
    owners = {kind: vars(kind)["__call__"] for kind in map(_owner, kinds) if kind is not None}

    def watch(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def watching(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
            output = call(self, *args, **kwargs)
            return visit(paths[id(self)], output, kwargs) if id(self) in paths else output

        return watching

    try:
        for kind, call in owners.items():
            setattr(kind, "__call__", watch(call))  # noqa: B010
        yield
    finally:
        for kind, call in owners.items():
            setattr(kind, "__call__", call)  # noqa: B010


def _owner(kind: type) -> type | None:
    """The base class that defines __call__ of `kind`; None for modules that cannot be called, such as lists."""
    return next((base for base in kind.__mro__ if "__call__" in vars(base)), None)
