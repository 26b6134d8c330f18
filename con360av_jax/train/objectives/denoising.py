"""Loss, measures and samples of one U-Net of the joint model alone, without connectors and maps.

For a latent z = mu + s * noise of a frame, a clip or a log-mel, eps ~ N(0, I) and a = alpha_bar of its modality:

(1) forward         x_t = sqrt(a_t) z + sqrt(1 - a_t) eps                       t: drawn by `train.timesteps`
(2) loss            L = mean(omega(t) |unet(x_t, t, text) - eps|^2)             omega: `train.min_snr_gamma`
                v of diffusion/process.py takes the place of eps where the schedule says so (`prediction`)
(3) no caption      text is that of the empty caption for a share `train.text_dropout` of the rows

(1), (2): Ho et al. 2020, equations 4 and 14, on latents (Rombach et al. 2022, equation 2). (3): Ho and Salimans 2022.
Held-out rows have uniform timesteps and random numbers of their own, so that all validations measure the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from con360av_jax.base.networks import text_function
from con360av_jax.config.settings import Config, TrainConfig
from con360av_jax.denoiser import Denoiser, DenoiserInputs, Latents
from con360av_jax.diffusion.loss import TIMESTEP_BUCKETS, Draws, bucket_sums, denoising_errors, weighed
from con360av_jax.diffusion.process import named_key
from con360av_jax.diffusion.sampler import sample
from con360av_jax.diffusion.schedule import by_modality
from con360av_jax.diffusion.timesteps import draw_timesteps
from con360av_jax.models import functional
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.models.joint import each_pass, from_features, to_features
from con360av_jax.models.unet import UNet
from con360av_jax.train.objectives.objective import Batch, Keys, Sums

Moments = Callable[[Params, Batch], tuple[Array, Array]]
"""(params, batch) -> scaled mean and standard deviation of the latents."""
UNITS = {"loss_other_caption": ""} | {f"loss_quarter_{number}": "" for number in range(1, TIMESTEP_BUCKETS + 1)}


class UNetObjective:
    """Loss (2), its held-out measures and samples for the U-Net of one modality.

    `motion` False leaves out the motion modules of a video U-Net: latents then have one frame.
    """

    def __init__(self, config: Config, modality: str, moments: Moments, motion: bool = True):
        self.modality, self.moments = modality, moments
        self.config, self.schedules = config, config.schedule
        # A U-Net alone reads no clean estimate.
        self.train = replace(config.train, clean_estimate_share=0.0)
        self.embed = text_function(modality, config.model)
        self.denoise = unet_denoiser(config, modality, motion)
        self.total = by_modality(self.schedules)[modality].train_steps

    def errors(self, params: Params, batch: Batch, keys: Keys, train: TrainConfig) -> tuple[Array, Array]:
        """The squared error of each row, mean over its values, and its timestep, drawn by `train`."""
        mean, std = self.moments(params, batch)
        z, eps, timestep, dropped = draw_rows(keys, mean, std, self.total, train)
        text, null = self.embeddings(params, batch)
        given = jnp.where(jnp.expand_dims(dropped, tuple(range(1, text.ndim))), null, text)
        name = self.modality
        drawn = Draws(
            clean={name: z},
            noise={name: eps},
            timestep=timestep,
            connector_timesteps={name: timestep},
            uses_estimate={},
            text={name: given},
            maps=None,
            map_mask=None,
        )
        return denoising_errors(self.denoise, params, drawn, self.schedules, self.train)[name], timestep

    def loss(self, params: Params, batch: Batch, keys: Keys) -> tuple[Array, dict[str, Array]]:
        """Equation (2) with (3)."""
        errors, timestep = self.errors(params, batch, keys, self.train)
        loss = weighed(errors, self.modality, timestep, self.schedules, self.train).mean()
        return loss, {"loss": loss}

    def measure(self, params: Params, batch: Batch) -> tuple[Sums, dict[str, Array]]:
        """Sums of the errors of held-out rows, also by quarter of the timesteps, and with the captions of others."""
        keys, alike = held_out_keys(batch), replace(self.train, text_dropout=0.0, timesteps="uniform")
        errors, timestep = self.errors(params, batch, keys, alike)
        # Rows beside each other may show one scene.
        other = {name: jnp.roll(batch[name], len(keys) // 2, axis=0) for name in ("ids", "mask")}
        others, _ = self.errors(params, {**batch, **other}, keys, alike)
        by_quarter, count = bucket_sums(errors, timestep, self.total)
        sums = {"error": jnp.sum(errors), "other_error": jnp.sum(others), "rows": jnp.float32(errors.size)}
        for number in range(TIMESTEP_BUCKETS):
            sums |= {f"error_{number + 1}": by_quarter[number], f"rows_{number + 1}": count[number]}
        return sums, {}

    def generate(self, params: Params, batch: Batch) -> Float[Array, "batch ..."]:
        """Latents, not scaled, sampled from the captions of held-out rows with the config's sampler."""
        mean, _ = self.moments(params, batch)
        text, null = self.embeddings(params, batch)
        name = self.modality
        eps = jax.vmap(lambda key, like: jax.random.normal(_named(key, "sample"), like.shape))(
            held_out_keys(batch), mean
        )
        made = sample(
            lambda inputs: self.denoise(params, inputs), {name: eps}, {name: text},
            {name: jnp.broadcast_to(null, text.shape)}, None, self.schedules, self.config.sampler,
        )  # fmt: skip
        return made[name] / by_modality(self.config.model.vae)[name].scaling_factor

    def embeddings(self, params: Params, batch: Batch) -> tuple[Array, Array]:
        """Embeddings of the captions (batch ...), and that of the empty one (1 ...)."""
        encoder = params[f"text_{self.modality}"]
        return (
            self.embed(encoder, batch["ids"], batch["mask"]),
            self.embed(encoder, batch["null_ids"][:1], batch["null_mask"][:1]),
        )


def paths(modality: str, train_text: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths that a U-Net's objective trains, with the text encoder if `train_text`, and those that it only reads."""
    unet, text, vae = f"joint/unet/{modality}", f"text_{modality}", f"vae_{modality}"
    return ((unet, text), (vae,)) if train_text else ((unet,), (vae, text))


def summarise(sums: Mapping[str, float]) -> dict[str, float]:
    """Returns the error (2) as "loss", that of each quarter of the timesteps that occurs, and that with wrong captions.

    A model that pays no heed to captions has the same error with those of other rows ("loss_other_caption").
    """
    rows = sums["rows"]
    found = {"loss": sums["error"] / rows, "loss_other_caption": sums["other_error"] / rows}
    for number in range(1, TIMESTEP_BUCKETS + 1):
        if sums[f"rows_{number}"]:
            found[f"loss_quarter_{number}"] = sums[f"error_{number}"] / sums[f"rows_{number}"]
    return found


def unet_denoiser(config: Config, modality: str, motion: bool = True) -> Denoiser:
    """The U-Net of one modality as a denoiser of it alone; parameters are those of the base, with "joint"."""
    unet = config.model.unet_audio if modality == "audio" else config.model.unet_video
    dtype = jnp.dtype(config.train.compute_dtype)
    graphdef, _ = functional.abstract(
        lambda rngs: UNet(unet, rngs=rngs, dtype=dtype, remat=config.train.remat, motion=motion)
    )

    def denoise(params: Params, inputs: DenoiserInputs) -> Latents:
        own = params["joint"]["unet"][modality]
        own = own if motion else without_motion(own)
        latent = inputs.latents[modality]
        x = each_pass(inputs, modality, to_features(modality, latent, dtype))
        timesteps = each_pass(inputs, modality, inputs.timesteps[modality])
        noise = functional.apply(graphdef, own, x, timesteps, inputs.text[modality])
        return {modality: from_features(modality, noise, latent)}

    return denoise


def without_motion(params: Params) -> Params:
    """Parameters of a video U-Net without those of its motion modules."""
    return unflatten({path: leaf for path, leaf in flatten(params).items() if "/motion_modules/" not in path})


def held_out_keys(batch: Batch) -> Keys:
    """A key per row, from the row's number."""
    return jax.vmap(lambda number: jax.random.key_data(jax.random.fold_in(jax.random.key(0), number)))(
        batch["sample_id"]
    )


def draw_rows(
    keys: Keys, mean: Float[Array, "batch ..."], std: Float[Array, "batch ..."], total: int, train: TrainConfig
) -> tuple[Float[Array, "batch ..."], Float[Array, "batch ..."], Int[Array, "batch"], Array]:
    """Latents z, noise eps, timesteps below `total`, and which rows lose their caption, each row from its own key."""

    def row(data: Array, mean: Array, std: Array) -> tuple[Array, Array, Array, Array]:
        return (
            mean + std * jax.random.normal(_named(data, "latent"), mean.shape, mean.dtype),
            jax.random.normal(_named(data, "noise"), mean.shape, jnp.float32),
            draw_timesteps(_named(data, "timestep"), (), total, train),
            jax.random.bernoulli(_named(data, "text_dropout"), train.text_dropout),
        )

    return jax.vmap(row)(keys, mean, std)


def _named(data: Array, name: str) -> Array:
    return named_key(jax.random.wrap_key_data(data), name)
