"""A linear model with the joint model's parameter names, its batches and recipe: what compiles in a second."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from con360av_jax.config.settings import AUDIO_SCHEDULE, VIDEO_SCHEDULE, NoiseSchedule, PerModality, TrainConfig
from con360av_jax.denoiser import Denoiser, Latents
from con360av_jax.diffusion import loss
from con360av_jax.diffusion.loss import Batch
from con360av_jax.models.functional import Params
from con360av_jax.models.joint import each_pass, own_maps

SCHEDULES = PerModality(audio=AUDIO_SCHEDULE, video=VIDEO_SCHEDULE)
WIDTH = 8
BATCH = 8
RECIPE = TrainConfig(trainable="motion", learning_rate=1e-2, ema_decay=0.5, compute_dtype="float32")


def _kernel(seed: int, rows: int = WIDTH) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, WIDTH)) / rows**0.5, jnp.float32)


def toy_params() -> Params:
    """A tree with the joint model's top names and enough in it to predict something."""
    return {
        "unet": {
            "audio": {"mid": {"to_q": {"kernel": _kernel(0)}, "norm": {"bias": jnp.zeros((WIDTH,))}}},
            "video": {"mid": {"to_q": {"kernel": _kernel(1)}}, "motion_modules": {"to_out": {"kernel": _kernel(2)}}},
        },
        "environment_encoder": {"audio": {"kernel": _kernel(3)}, "video": {"kernel": _kernel(4)}},
        "connector": {"audio": {"kernel": _kernel(5)}, "video": {"kernel": _kernel(6)}},
        "map_encoder": {"kernel": _kernel(7, rows=2)},
        "film": {"audio": {"kernel": _kernel(8)}, "video": {"kernel": _kernel(9)}},
    }


def toy(params: Params, inputs: Any) -> Latents:
    """Linear layers in the joint model's order: own features, the other modality's, the maps', the caption."""
    control = inputs.maps.mean(axis=(1, 2, 3)) @ params["map_encoder"]["kernel"]
    control = jnp.where(inputs.map_mask[:, None], control, 0.0)

    def pooled(x: jax.Array) -> jax.Array:
        return x.mean(axis=tuple(range(1, x.ndim - 1)))

    def one(name: str, other: str) -> jax.Array:
        rows = pooled(inputs.connector_latents[other] + inputs.clean_estimates[other])
        rows = rows @ params["environment_encoder"][other]["kernel"]
        rows = each_pass(inputs, name, rows @ params["connector"][name]["kernel"])
        rows = rows + own_maps(inputs, name, control @ params["film"][name]["kernel"])
        t = each_pass(inputs, name, inputs.timesteps[name])[:, None].astype(jnp.float32)
        rows = rows + pooled(inputs.text[name][:, None]) * 1e-3 * t
        x_t = each_pass(inputs, name, inputs.latents[name])
        wide = jnp.expand_dims(rows, tuple(range(1, x_t.ndim - 1)))
        h = x_t @ params["unet"][name]["mid"]["to_q"]["kernel"] + wide
        return h @ params["unet"]["video"]["motion_modules"]["to_out"]["kernel"] if name == "video" else h

    return {"audio": one("audio", "video"), "video": one("video", "audio")}


def toy_batch(seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    shapes = {"audio": (BATCH, 4, 2, WIDTH), "video": (BATCH, 2, 2, 2, WIDTH)}

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    batch = {
        "moments": {
            name: {"mean": normal(*shape), "std": np.full(shape, 0.1, np.float32)} for name, shape in shapes.items()
        },
        "text": {"audio": normal(BATCH, WIDTH), "video": normal(BATCH, 3, WIDTH)},
        "maps": normal(BATCH, 2, 4, 8, 2),
        "viewpoint": normal(BATCH, 2, 4),
        "sample_id": np.arange(BATCH),
    }
    return cast(Batch, batch)


NULL_TEXT = {"audio": np.zeros((WIDTH,), np.float32), "video": np.zeros((3, WIDTH), np.float32)}


def training_loss(
    denoiser: Denoiser,
    params: Params,
    batch: Batch,
    null_text: Any,
    key: jax.Array,
    schedules: PerModality[NoiseSchedule],
    recipe: TrainConfig,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of a batch, with the draws that the training step makes."""
    drawn = loss.draw(batch, null_text, loss.dropout_rates(recipe), key, schedules, recipe)
    return loss.denoising_loss(denoiser, params, drawn, schedules, recipe)
