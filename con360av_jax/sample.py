"""Sampling in batches: noise from seeds, guided DDIM compiled once per batch shape, clips on disk.

The noise of a sample is a function of its seed alone, so a sample does not depend on the rest of its batch.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, UInt8

from con360av_jax.base.codecs import Codecs
from con360av_jax.config.files import config_hash, unstructure
from con360av_jax.config.settings import Config, Dtype, SamplerConfig
from con360av_jax.config.shapes import latent_shapes, maps_shape
from con360av_jax.denoiser import Latents, Text
from con360av_jax.diffusion.process import draw_noise
from con360av_jax.diffusion.sampler import sample, without_map_guidance
from con360av_jax.errors import ConfigError, MediaError
from con360av_jax.media.files import CLIP_SUFFIXES, write_clip
from con360av_jax.models.functional import Params
from con360av_jax.models.joint import joint_model
from con360av_jax.runtime.files import replacing, write_text
from con360av_jax.sharding import BATCH_AXES, batch_sharding

SEEDS = 2**32


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One generated view with its audio, and what it was generated from."""

    video: UInt8[np.ndarray, "frame height width 3"]
    """RGB."""
    audio: Float32[np.ndarray, "sample"]
    """Mono, in [-1, 1]."""
    frames_per_second: int
    """Frames of `video` per second."""
    sample_rate: int
    """Samples of `audio` per second, Hz."""
    caption: str
    """Caption that the clip was generated from."""
    seed: int
    """Seed of its noise."""
    viewpoint: Float32[np.ndarray, "frame 4"] | None = None
    """Yaw, pitch, horizontal and vertical field of view, rad; None without control."""
    maps: Float32[np.ndarray, "frame height width 2"] | None = None
    """Saliency and BASD that the model saw; None without control."""

    def save(self, path: str | Path) -> None:
        """Writes video and audio to one .mp4 or .mov atomically; raises MediaError for another suffix."""
        if Path(path).suffix.lower() not in CLIP_SUFFIXES:
            raise MediaError(f"{path}: a clip is written as .mp4 or .mov; give a name that ends in one of them")
        write_clip(path, self.video, self.frames_per_second, self.audio, self.sample_rate)

    def save_control(self, path: str | Path) -> None:
        """Writes the control to an .npz: saliency and basd (frame height width 1), viewpoint (frame 4).

        Raises MediaError if the clip was generated without control.
        """
        if self.maps is None or self.viewpoint is None:
            raise MediaError(f"{path}: this clip was generated without control, so there is none to save")
        with replacing(path, MediaError) as aside, aside.open("wb") as file:
            np.savez_compressed(file, saliency=self.maps[..., :1], basd=self.maps[..., 1:], viewpoint=self.viewpoint)


def decode(
    codecs: Codecs,
    latents: Mapping[str, Array | np.ndarray],
    caption: str,
    seed: int,
    viewpoint: Float32[np.ndarray, "frame 4"] | None = None,
    maps: Float32[np.ndarray, "frame height width 2"] | None = None,
) -> Clip:
    """Decodes the latents of one sample, without batch axis, that was generated from the other arguments."""
    return Clip(
        video=codecs.decode_video(np.asarray(latents["video"])),
        audio=codecs.decode_audio(np.asarray(latents["audio"])),
        frames_per_second=codecs.config.clip.frames_per_second,
        sample_rate=codecs.config.mel.sample_rate,
        caption=caption,
        seed=seed,
        viewpoint=viewpoint,
        maps=maps,
    )


def write_card(path: Path, config: Config, settings: SamplerConfig, **described: object) -> None:
    """Writes the card of a clip as JSON: `described`, then sampler settings and config."""
    card = {
        **described,
        "sampler": unstructure(settings),
        "config": config.name,
        "config_hash": config_hash(config),
    }
    write_text(path, json.dumps(card, indent=2, ensure_ascii=False) + "\n")


@partial(jax.jit, static_argnames="config")
def _noise(seeds: Array, config: Config) -> Latents:
    wanted = latent_shapes(config)
    return jax.vmap(lambda seed: draw_noise(jax.random.key(seed), wanted))(seeds)


def noise_from_seeds(config: Config, seeds: Sequence[int]) -> Latents:
    """Standard normal latents of both modalities, one sample per seed; row i depends on seeds[i] only.

    Raises ConfigError if a seed is negative or needs more than 32 bits.
    """
    for seed in seeds:
        if not 0 <= seed < SEEDS:
            raise ConfigError(f"a seed must lie in [0, {SEEDS}), but is {seed}")
    return _noise(np.asarray(seeds, np.uint32), config)


class BatchSampler:
    """The sampler of one model on one mesh, computing in `dtype`; compiles once per batch shape and setting."""

    def __init__(self, config: Config, mesh: Mesh, dtype: Dtype):
        self.mesh, self._maps_shape = mesh, maps_shape(config)
        denoise, _ = joint_model(config, dtype)

        def run(
            params: Params,
            noise: Latents,
            text: Text,
            negative_text: Text,
            maps: Array,
            map_mask: Array,
            settings: SamplerConfig,
        ) -> Latents:
            model = partial(denoise, params)
            return sample(model, noise, text, negative_text, maps, config.schedule, settings, map_mask)

        self._run = jax.jit(run, static_argnames="settings", out_shardings=batch_sharding(mesh))

    def __call__(
        self,
        params: Params,
        noise_latents: Latents,
        text: Text,
        negative_text: Text,
        maps: Float[Array | np.ndarray, "batch frame height width 2"] | None,
        settings: SamplerConfig,
        map_mask: Bool[np.ndarray, "batch"] | None = None,
    ) -> Latents:
        """Latents of both modalities; a batch that does not divide over the mesh is padded, and the result cut.

        Rows where `map_mask` is False are sampled without control, as is every row where `maps` is None. They run in
        the program of rows with control, so that one batch may hold both.
        On a mesh of several processes all of them call it with the same arguments and get all latents.
        """
        count = next(iter(noise_latents.values())).shape[0]
        if maps is None:
            maps, map_mask = np.zeros((count, *self._maps_shape), np.float32), np.zeros(count, bool)
        map_mask = np.ones(count, bool) if map_mask is None else map_mask
        settings = settings if map_mask.any() else without_map_guidance(settings)
        parts = math.prod(self.mesh.shape[name] for name in BATCH_AXES)
        rows = np.minimum(np.arange(math.ceil(count / parts) * parts), count - 1)
        inputs = (noise_latents, text, negative_text, maps, map_mask)
        filled = jax.tree.map(lambda array: np.asarray(array)[rows], inputs)
        latents = self._run(params, *jax.device_put(filled, batch_sharding(self.mesh)), settings=settings)
        if self.mesh.is_multi_process:
            latents = multihost_utils.process_allgather(latents, tiled=True)
        return jax.tree.map(lambda array: array[:count], latents)
