"""Guidance by text and by maps, with a separate scale per modality, in one batched call of the model.

With e_tm the prediction with caption and maps, e_0m with the negative caption, e_00 without maps as well:

    (1) eps = e_00 + g_map (e_0m - e_00) + g_text (e_tm - e_0m)
            = (1 - g_map) e_00 + (g_map - g_text) e_0m + g_text e_tm
    (2) eps = e_0 + g_text (e_t - e_0) = (1 - g_text) e_0 + g_text e_t           without maps

A prediction whose weight is zero for every modality is not computed. Sources: Ho and Salimans 2022; Brooks et al. 2023,
eq. 3 (two conditions).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Array, Float

from con360av_jax.denoiser import Denoise, DenoiserInputs, Latents, Text, Timesteps

Guided: TypeAlias = Callable[[Latents, Timesteps, Latents], Latents]
"""(latents, timesteps, clean_estimates) -> guided prediction of the noise."""


class Pass(NamedTuple):
    """Conditions that one prediction sees."""

    text: bool
    """True: the caption; False: the negative caption."""
    maps: bool


def pass_weights(
    text_scales: Mapping[str, float], map_scales: Mapping[str, float], with_maps: bool
) -> dict[Pass, dict[str, float]]:
    """Weights per pass and modality of equation (1), or of (2) if not `with_maps`; passes of weight 0 are left out."""
    weights: dict[Pass, dict[str, float]] = {}
    for name, g_text in text_scales.items():
        g_map = map_scales[name]
        terms = {Pass(text=False, maps=False): 1.0 - g_text, Pass(text=True, maps=False): g_text}
        if with_maps:
            terms = {
                Pass(text=False, maps=False): 1.0 - g_map,
                Pass(text=False, maps=True): g_map - g_text,
                Pass(text=True, maps=True): g_text,
            }
        for which, weight in terms.items():
            weights.setdefault(which, {})[name] = weight
    return {which: by_name for which, by_name in weights.items() if any(by_name.values())}


def combine(predictions: Mapping[Pass, Latents], weights: Mapping[Pass, Mapping[str, float]]) -> Latents:
    """The weighted sum of equations (1) and (2), per modality and in float32."""
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
    text_scales: Mapping[str, float],
    map_scales: Mapping[str, float],
) -> Guided:
    """The guided prediction as a function that calls `denoise` once.

    Every pass sees the same latents and clean estimates. As in the public baseline's sampler, the environment
    encoders read the current latents at the current timesteps.
    """
    weights = pass_weights(text_scales, map_scales, with_maps=maps is not None)
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
    every_maps = None if maps is None else spread(maps)

    def predict(latents: Latents, timesteps: Timesteps, clean_estimates: Latents) -> Latents:
        batch = next(iter(latents.values())).shape[0]
        x, t, clean = jax.tree.map(spread, (latents, timesteps, clean_estimates))
        mask = repeat(jnp.array([which.maps for which in passes]), "passes -> (batch passes)", batch=batch)
        eps = denoise(
            DenoiserInputs(
                latents=x,
                timesteps=t,
                text=every_text,
                clean_estimates=clean,
                connector_timesteps=t,
                connector_latents=x,
                maps=every_maps,
                map_mask=None if maps is None else mask,
            )
        )
        split = {name: rearrange(e, "(batch passes) ... -> passes batch ...", batch=batch) for name, e in eps.items()}
        return combine({which: {name: e[i] for name, e in split.items()} for i, which in enumerate(passes)}, weights)

    return predict
