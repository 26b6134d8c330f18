"""Pretraining of the video VAE on single frames (train/objectives/autoencoder.py).

Weights of equation (2): `object_weight` on pixels of known objects and 1 elsewhere. Held-out frames are measured
without noise in the latent:
(6) PSNR            10 lg (2^2 / MSE), dB;  MSE over all values of all held-out frames in [-1, 1]
(7) object PSNR     the same over the pixels of known objects
"""

import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from con360av_jax.base.networks import pixels, vae_functions
from con360av_jax.config.networks import require
from con360av_jax.config.settings import Config
from con360av_jax.models.functional import Params
from con360av_jax.train.objectives.autoencoder import latent_std, latent_sums, shown_frames, vae_loss
from con360av_jax.train.objectives.objective import Batch, Keys, Objective, Sums, window

PART = "vae_video"
UNITS = {"psnr": "dB", "object_psnr": "dB", "latent_std": ""}


def objective(config: Config) -> Objective:
    """Returns the objective; raises ConfigError if the crop does not fit the frames or the VAE."""
    settings, clip, vae = config.pretrain.vae_video, config.clip, config.model.vae.video
    require(
        settings.crop <= min(clip.height, clip.width) and settings.crop % vae.factor == 0,
        f"pretrain.vae_video.crop={settings.crop} must be at most the view, {clip.height}x{clip.width}, and a multiple "
        f"of the VAE's factor {vae.factor}",
    )
    encode, decode = vae_functions(PART, config.model, jnp.dtype(config.train.compute_dtype))

    def example(arrays: Mapping[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
        return crop(arrays, settings.crop, settings.object_share, random)

    def loss(params: Params, batch: Batch, keys: Keys) -> tuple[Array, dict[str, Array]]:
        weight = jnp.where(batch["objects"], settings.object_weight, 1.0)
        x = pixels(batch["frames"])
        return vae_loss(encode, decode, params[PART], x, weight, keys, settings.gradient_weight, settings.kl_weight)

    def measure(params: Params, batch: Batch) -> tuple[Sums, dict[str, Array]]:
        x = pixels(batch["frames"])
        mean, std = encode(params[PART], x)
        made = jnp.clip(decode(params[PART], mean), -1.0, 1.0)
        squares = jnp.sum(jnp.square(x - made), -1)
        sums = {
            "squares": jnp.sum(squares),
            "values": jnp.float32(x.size),
            "object_squares": jnp.sum(squares * batch["objects"].astype(jnp.float32)),
            "object_values": 3 * jnp.sum(batch["objects"].astype(jnp.float32)),
            **latent_sums(mean, std),
        }
        return sums, {"input_frames": batch["frames"], "output_frames": shown_frames(made)}

    fits = (clip.height // settings.crop) * (clip.width // settings.crop)
    return Objective(
        part=PART, trains=(PART,), fields=("video",), scenes="stills", example=example, examples_per_scene=fits,
        whole=frame, loss=loss, measure=measure, summarise=summarise, units=UNITS,
    )  # fmt: skip


def summarise(sums: Mapping[str, float]) -> dict[str, float]:
    """Returns the mean squared error as "loss", PSNR (6), object PSNR (7) where objects are known, and "latent_std"."""
    error = sums["squares"] / sums["values"]
    found = {"loss": error, "psnr": psnr(error)}
    if sums["object_values"]:
        found["object_psnr"] = psnr(sums["object_squares"] / sums["object_values"])
    return found | {"latent_std": latent_std(sums["latent_sum"], sums["latent_squares"], sums["latent_values"])}


def psnr(mean_squared_error: float) -> float:
    """Equation (6) for values in [-1, 1], dB; infinite for equal images."""
    return 10 * math.log10(4 / mean_squared_error) if mean_squared_error else math.inf


def frame(arrays: Mapping[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns a random frame of `arrays["video"]` (frame height width 3) with its objects.

    "objects" is 1 on known objects, from `arrays["objects"]` (frame height width) if given, and 0 elsewhere; uint8.
    """
    number = int(random.integers(len(arrays["video"])))
    video = arrays["video"][number]
    known = arrays["objects"][number] if "objects" in arrays else np.zeros(video.shape[:2])
    return {"frames": video, "objects": known.astype(np.uint8)}


def crop(
    arrays: Mapping[str, np.ndarray], size: int, object_share: float, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Returns a square crop of a random frame, around a random pixel of a known object for `object_share` of them."""
    found = frame(arrays, random)
    height, width = found["objects"].shape
    rows, columns = window(height, size, random), window(width, size, random)
    seen = np.argwhere(found["objects"])
    if random.random() < object_share and len(seen):
        row, column = seen[random.integers(len(seen))]
        rows, columns = _around(row, size, height), _around(column, size, width)
    return {name: array[rows, columns] for name, array in found.items()}


def _around(centre: int, size: int, length: int) -> slice:
    start = min(max(int(centre) - size // 2, 0), length - size)
    return slice(start, start + size)
