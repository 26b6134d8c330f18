"""The training loss of the joint model: predict both modalities' noise, with conditions dropped at random.

For modality m with clean latent x_0 = mean + std z, noise eps, a = alpha_bar of m at a timestep:

    (1) x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps            t: one per sample, the same for all modalities
    (2) x_s = sqrt(a_s) x_0 + sqrt(1 - a_s) eps            s: independent per sample and modality, same noise
    (3) c   = x_0 predicted by the model with c = 0, without gradient, for a share of the samples; else 0
    (4) L   = sum_m lambda_m mean(omega_m(t) |model(x_t, t; x_s, s, c) - eps|^2)

In (4) v of diffusion/process.py takes the place of eps for a modality whose schedule says so (`prediction`).
lambda_m (`loss_weight`) and omega_m (`min_snr_gamma`, see `min_snr_weights`) are 1 unless the config says otherwise.

Source: Ishii et al. 2024 (arXiv 2409.17550) and the training loop of its public code, from which (2) keeps the shared
noise and (3) the independent draw per modality. One difference: that loop gives the first pass of (3) x_s together with
the time embedding of t; here it gets that of s, as in the second pass.
"""

from dataclasses import replace
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from con360av_jax.config.settings import NoiseSchedule, PerModality, TrainConfig, require
from con360av_jax.denoiser import Denoiser, DenoiserInputs, Latents, Text, Timesteps
from con360av_jax.diffusion.process import add_noise, convert, draw_noise, named_key
from con360av_jax.diffusion.schedule import alphas_cumprod, by_modality, min_snr_weights, predictions
from con360av_jax.diffusion.timesteps import draw_timesteps

TIMESTEP_BUCKETS = 4


class Batch(TypedDict):
    """A batch of the loader; every array has a leading batch axis."""

    moments: dict[str, dict[str, Array]]
    """Per modality "mean" and "std" of the scaled latent."""
    text: dict[str, Array]
    maps: Array
    viewpoint: Array
    sample_id: Array


class DropoutRates(NamedTuple):
    """Shares of samples that lose a condition, float32.

    They are arguments of the training step, not constants in it: baseline and control share one compiled program.
    """

    text: Float[Array | np.float32, ""]
    maps: Float[Array | np.float32, ""]
    """Saliency and BASD together."""
    saliency: Float[Array | np.float32, ""]
    basd: Float[Array | np.float32, ""]


class Draws(NamedTuple):
    """All random draws for one batch."""

    clean: Latents
    noise: Latents
    timestep: Int[Array, "batch"]
    connector_timesteps: Timesteps
    uses_estimate: dict[str, Bool[Array, "batch"]]
    text: Text
    maps: Float[Array, "batch frame height width 2"] | None
    """Saliency and BASD; a map that is left out alone is zero. None for a model without maps."""
    map_mask: Bool[Array, "batch"] | None
    """False where both maps are left out."""


def _where(mask: Bool[Array, "batch"], yes: Array, no: Array) -> Array:
    """Row by row `yes` or `no`."""
    return jnp.where(jnp.expand_dims(mask, tuple(range(1, yes.ndim))), yes, no)


def _train_steps(schedules: PerModality[NoiseSchedule]) -> int:
    steps = {name: schedule.train_steps for name, schedule in by_modality(schedules).items()}
    require(len(set(steps.values())) == 1, f"modalities share one timestep, but their train_steps differ: {steps}")
    return steps["video"]


def dropout_rates(config: TrainConfig) -> DropoutRates:
    """The settings that end in `_dropout`, for `draw`."""
    return DropoutRates(
        text=np.float32(config.text_dropout),
        maps=np.float32(config.map_dropout),
        saliency=np.float32(config.saliency_dropout),
        basd=np.float32(config.basd_dropout),
    )


def draw(
    batch: Batch,
    null_text: Text,
    dropout: DropoutRates,
    key: Key[Array, ""],
    schedules: PerModality[NoiseSchedule],
    config: TrainConfig,
) -> Draws:
    """Draws latents from moments, noise, timesteps and dropped conditions, each with a key of its own name.

    `null_text` is the empty caption's embedding per modality, without batch axis; a dropped caption is dropped for both
    modalities. Saliency and BASD are dropped together and one by one, each independently: a map dropped alone is zero,
    as `Con360AV.control` gives it without saliency; rows that lose both get `map_mask` False. Of `config` only
    `clean_estimate_share` and the distribution of the timesteps are read.
    """
    moments = batch["moments"]
    shapes = {name: moment["mean"].shape for name, moment in moments.items()}
    size = batch["sample_id"].shape[0]
    total = _train_steps(schedules)

    def steps(name: str) -> Int[Array, "batch"]:
        return draw_timesteps(named_key(key, name), (size,), total, config)

    def chance(name: str, share: Array | np.float32 | float) -> Bool[Array, "batch"]:
        return jax.random.bernoulli(named_key(key, name), share, (size,))

    z = draw_noise(named_key(key, "latent"), shapes)
    drop_text = chance("text_dropout", dropout.text)
    drop_both = chance("map_dropout", dropout.maps)
    drop_one = jnp.stack([chance("saliency_dropout", dropout.saliency), chance("basd_dropout", dropout.basd)], axis=-1)
    maps = jnp.where(rearrange(drop_one, "batch map -> batch 1 1 1 map"), 0.0, batch["maps"])
    return Draws(
        clean={name: moment["mean"] + moment["std"] * z[name] for name, moment in moments.items()},
        noise=draw_noise(named_key(key, "noise"), shapes),
        timestep=steps("timestep"),
        connector_timesteps={name: steps(f"connector_timestep/{name}") for name in moments},
        uses_estimate={name: chance(f"clean_estimate/{name}", config.clean_estimate_share) for name in moments},
        text={name: _where(drop_text, null_text[name][None], given) for name, given in batch["text"].items()},
        maps=maps,
        map_mask=~(drop_both | drop_one.all(axis=-1)),
    )


def bucket_sums(
    errors: Float[Array, "batch"], timestep: Int[Array, "batch"], train_steps: int
) -> tuple[Float[Array, "bucket"], Float[Array, "bucket"]]:
    """Sum of the errors and number of samples in each of four equal ranges of timesteps."""
    member = jax.nn.one_hot(timestep * TIMESTEP_BUCKETS // train_steps, TIMESTEP_BUCKETS, dtype=jnp.float32)
    return jnp.einsum("b,bk->k", errors, member), member.sum(axis=0)


def weighed(
    errors: Float[Array, "batch"],
    modality: str,
    timestep: Int[Array, "batch"],
    schedules: PerModality[NoiseSchedule],
    config: TrainConfig,
) -> Float[Array, "batch"]:
    """The errors of one modality times lambda_m omega_m(t) of equation (4)."""
    weight = by_modality(config.loss_weight)[modality]
    # Left out where they are 1, so that the default adds no operation and no rounding.
    if config.min_snr_gamma > 0:
        omega = min_snr_weights(by_modality(schedules)[modality], config.min_snr_gamma)
        errors = errors * jnp.asarray(omega)[timestep]
    return errors if weight == 1.0 else errors * jnp.float32(weight)


def denoising_errors(
    denoiser: Denoiser,
    params: PyTree[Array],
    drawn: Draws,
    schedules: PerModality[NoiseSchedule],
    config: TrainConfig,
) -> dict[str, Float[Array, "batch"]]:
    """Mean of |model(x_t, t; x_s, s, c) - eps|^2 in equation (4) over each sample, per modality."""
    alpha_bar = {name: jnp.asarray(alphas_cumprod(schedule)) for name, schedule in by_modality(schedules).items()}
    t = dict.fromkeys(drawn.clean, drawn.timestep)
    s = drawn.connector_timesteps
    a_t = {name: alpha_bar[name][t[name]] for name in t}
    x_t = add_noise(drawn.clean, drawn.noise, a_t)
    x_s = add_noise(drawn.clean, drawn.noise, {name: alpha_bar[name][s[name]] for name in s})
    zeros, kinds = jax.tree.map(jnp.zeros_like, x_t), predictions(schedules)
    inputs = DenoiserInputs(
        latents=x_t,
        timesteps=t,
        text=drawn.text,
        clean_estimates=zeros,
        connector_timesteps=s,
        connector_latents=x_s,
        maps=drawn.maps,
        map_mask=drawn.map_mask,
    )
    if config.clean_estimate_share > 0:
        found = convert(kinds, "x0", denoiser(jax.lax.stop_gradient(params), inputs), x_t, a_t)
        c = {name: _where(drawn.uses_estimate[name], found[name], zeros[name]) for name in zeros}
        inputs = replace(inputs, clean_estimates=c)

    wanted, made = convert("epsilon", kinds, drawn.noise, x_t, a_t), denoiser(params, inputs)
    squared = {name: jnp.square(made[name].astype(jnp.float32) - wanted[name]) for name in drawn.noise}
    return {name: values.mean(axis=tuple(range(1, values.ndim))) for name, values in squared.items()}


def denoising_loss(
    denoiser: Denoiser,
    params: PyTree[Array],
    drawn: Draws,
    schedules: PerModality[NoiseSchedule],
    config: TrainConfig,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Equation (4) and its metrics: "loss", and without weights "loss/NAME", "bucket_sum/NAME" and "bucket_count".

    A bucket is one of four equal ranges of t.
    """
    metrics: dict[str, Array] = {}
    loss = jnp.zeros((), jnp.float32)
    for name, errors in denoising_errors(denoiser, params, drawn, schedules, config).items():
        metrics[f"loss/{name}"] = errors.mean()
        metrics[f"bucket_sum/{name}"], metrics["bucket_count"] = bucket_sums(
            errors, drawn.timestep, _train_steps(schedules)
        )
        loss = loss + weighed(errors, name, drawn.timestep, schedules, config).mean()
    return loss, {"loss": loss, **metrics}
