"""A pretrained folder with random weights for every part: the start of small models, tests and the demo."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from con360av_jax.base.codecs import FRAMES_AT_ONCE
from con360av_jax.base.networks import compiled_vae, pixels
from con360av_jax.base.parts import PARTS, part_factory
from con360av_jax.base.pretrained import Pretrained, open_pretrained, refuse_existing, write_pretrained
from con360av_jax.base.tokenizer import train_tokenizers
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import latent_shapes, mel_frames
from con360av_jax.models import functional
from con360av_jax.models.calibrate import calibrate
from con360av_jax.models.functional import Params, flatten, unflatten


def create_random(
    folder: str | Path,
    config: Config,
    seed: int,
    trained: Params | None = None,
    origins: Sequence[Mapping[str, object]] = (),
) -> Pretrained:
    """Makes a pretrained folder with random weights for every part, to train small models from scratch.

    Tokenizers are trained on captions of procedural scenes. Autoencoders are calibrated (models/calibrate.py) on
    smooth random frames and mels, so that latents have about unit variance under the config's scaling_factor. The
    same seed gives the same weights.

    Parameters in `trained`, nested below the names of their parts, take the place of random ones; `origins` describe
    where they come from and are kept in the report.

    Raises CheckpointError if `folder` exists, ConfigError if a vocabulary is too small.
    """

    given = trained or {}

    def parts() -> Iterable[tuple[str, Params]]:
        for number, part in enumerate(PARTS):
            params = functional.init(part_factory(part, config), jax.random.fold_in(jax.random.key(seed), number))
            if part.startswith("vae_") and part not in given:
                params = _calibrated(params, part, config, np.random.default_rng((seed, number)))
            yield part, unflatten(flatten(params) | flatten(given.get(part, {})))

    refuse_existing(Path(folder))
    origin = ", ".join([f"random weights, seed {seed}", *(f"{origin['part']} pretrained" for origin in origins)])
    write_pretrained(folder, config, parts(), train_tokenizers(config, seed), origin=origin, trained=origins)
    return open_pretrained(folder)


def _calibrated(params: Params, part: str, config: Config, random: np.random.Generator) -> Params:
    modality = part.removeprefix("vae_")
    vae, latent = getattr(config.model.vae, modality), latent_shapes(config)[modality]
    if modality == "video":
        shape = (FRAMES_AT_ONCE, config.clip.height, config.clip.width, 3)
        inputs = pixels((np.clip(0.5 + 0.2 * _smooth(random, shape, 8), 0, 1) * 255).astype(np.uint8))
        latent = (FRAMES_AT_ONCE, *latent[1:])
    else:
        inputs = -5 + 2 * _smooth(random, (1, mel_frames(config), config.mel.bands, 1), 4)
        latent = (1, *latent)
    noise = random.standard_normal(latent).astype(np.float32)
    # The compiled programs of `Codecs` at the same shapes: encoding finds them in the cache afterwards.
    encode, decode = compiled_vae(part, config.model)
    return calibrate(params, encode, decode, inputs, noise, vae.scaling_factor)


def _smooth(random: np.random.Generator, shape: tuple[int, ...], cells: int) -> np.ndarray:
    """Noise of unit variance, float32, with about `cells` blobs along the height and the width."""
    batch, height, width, channels = shape
    coarse = random.standard_normal((batch, cells, cells, channels))
    rows, columns = (_interpolation(length, cells) for length in (height, width))
    noise = np.einsum("hi,wj,bijc->bhwc", rows, columns, coarse)
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def _interpolation(length: int, cells: int) -> np.ndarray:
    """Matrix (length, cells) that interpolates linearly between cells."""
    position = np.linspace(0, cells - 1, length)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells)))
