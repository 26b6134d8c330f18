"""Guidance by text, BASD and saliency, with a separate scale per modality, in one batched call of the model.

With e_0 the prediction without maps, e_b with BASD alone and e_sb with saliency as well, all with the negative caption,
and e_tsb that with the caption and both maps:

    (1) eps = e_0 + g_basd (e_b - e_0) + g_saliency (e_sb - e_b) + g_text (e_tsb - e_sb)
            = (1 - g_basd) e_0 + (g_basd - g_saliency) e_b + (g_saliency - g_text) e_sb + g_text e_tsb

A prediction whose weight is zero for every modality is not computed: with one scale for both maps e_b is not, with
scale 1 neither is e_0. For rows without maps e_0 = e_b = e_sb: (1) is guidance by text alone, whatever the other
scales.
Sources: Ho and Salimans 2022; Brooks et al. 2023, eq. 3 (several conditions).
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Array, Bool, Float

from con360av_jax.config.settings import SamplerConfig
from con360av_jax.denoiser import Denoise, DenoiserInputs, Latents, Text, Timesteps
from con360av_jax.diffusion.schedule import by_modality

Guided: TypeAlias = Callable[[Latents, Timesteps, Latents], Latents]
"""(latents, timesteps, clean_estimates) -> guided prediction of the noise."""


class Pass(NamedTuple):
    """Conditions that one prediction sees."""

    text: bool
    """True: the caption; False: the negative caption."""
    saliency: bool
    basd: bool


# e_0, e_b, e_sb and e_tsb of equation (1).
PASSES = (
    Pass(text=False, saliency=False, basd=False),
    Pass(text=False, saliency=False, basd=True),
    Pass(text=False, saliency=True, basd=True),
    Pass(text=True, saliency=True, basd=True),
)


def pass_weights(config: SamplerConfig) -> dict[Pass, dict[str, float]]:
    """Weights per pass and modality of equation (1); passes of weight 0 are left out."""
    text, basd = by_modality(config.text_guidance), by_modality(config.map_guidance)
    saliency = {name: basd[name] if g is None else g for name, g in by_modality(config.saliency_guidance).items()}
    weights: dict[Pass, dict[str, float]] = {which: {} for which in PASSES}
    for name in text:
        scales = (1.0, basd[name], saliency[name], text[name], 0.0)
        for which, (scale, following) in zip(PASSES, pairwise(scales), strict=True):
            weights[which][name] = scale - following
    return {which: by_name for which, by_name in weights.items() if any(by_name.values())}


def combine(predictions: Mapping[Pass, Latents], weights: Mapping[Pass, Mapping[str, float]]) -> Latents:
    """The weighted sum of equation (1), per modality and in float32."""
    total: Latents = {}
    for which, prediction in predictions.items():
        for name, eps in prediction.items():
            term = weights[which][name] * eps.astype(jnp.float32)
            total[name] = total[name] + term if name in total else term
    return total


def guided(
    denoise: Denoise,
    text: Text,
    negative_text: Text,
    maps: Float[Array, "batch frame height width 2"] | None,
    map_mask: Bool[Array, "batch"] | None,
    weights: Mapping[Pass, Mapping[str, float]],
) -> Guided:
    """The guided prediction as a function that calls `denoise` once.

    `weights` come from `pass_weights`. Rows where `map_mask` is False see no maps in any pass; None means that all see
    them. Every pass sees the same latents and clean estimates. As in the public baseline's sampler, the environment
    encoders read the current latents at the current timesteps.
    """
    passes = tuple(weights)

    def spread(x: Array) -> Array:
        return repeat(x, "batch ... -> (batch passes) ...", passes=len(passes))

    # Passes of one sample are adjacent, so a batch that is split over devices stays in place.
    every_text = {
        name: rearrange(
            [text[name] if which.text else negative_text[name] for which in passes],
            "passes batch ... -> (batch passes) ...",
        )
        for name in text
    }
    every_maps = every_mask = None
    if maps is not None:
        basd_alone = maps.at[..., 0].set(0.0)
        every_maps = rearrange(
            [maps if which.saliency else basd_alone for which in passes], "passes batch ... -> (batch passes) ..."
        )
        controlled = jnp.ones(maps.shape[:1], bool) if map_mask is None else map_mask
        every_mask = rearrange(
            [controlled if which.basd else jnp.zeros_like(controlled) for which in passes],
            "passes batch -> (batch passes)",
        )

    def predict(latents: Latents, timesteps: Timesteps, clean_estimates: Latents) -> Latents:
        batch = next(iter(latents.values())).shape[0]
        x, t, clean = jax.tree.map(spread, (latents, timesteps, clean_estimates))
        eps = denoise(
            DenoiserInputs(
                latents=x,
                timesteps=t,
                text=every_text,
                clean_estimates=clean,
                connector_timesteps=t,
                connector_latents=x,
                maps=every_maps,
                map_mask=every_mask,
            )
        )
        split = {name: rearrange(e, "(batch passes) ... -> passes batch ...", batch=batch) for name, e in eps.items()}
        return combine({which: {name: e[i] for name, e in split.items()} for i, which in enumerate(passes)}, weights)

    return predict
