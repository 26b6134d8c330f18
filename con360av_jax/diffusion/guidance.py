"""Guidance by text, BASD and saliency, with a separate scale per modality, in one batched call of the model.

With e_0 the prediction without maps, e_b with BASD alone and e_sb with saliency as well, all with the negative caption,
and e_tsb that with the caption and both maps:

    (1) eps = e_0 + g_basd (e_b - e_0) + g_saliency (e_sb - e_b) + g_text (e_tsb - e_sb)
            = (1 - g_basd) e_0 + (g_basd - g_saliency) e_b + (g_saliency - g_text) e_sb + g_text e_tsb

A prediction whose weight is zero for a modality is not computed for it: with one scale for both maps e_b is not, with
scale 1 neither is e_0. For rows without maps e_0 = e_b = e_sb: (1) is guidance by text alone, whatever the other
scales.
Sources: Ho and Salimans 2022; Brooks et al. 2023, eq. 3 (several conditions).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from con360av_jax.config.settings import PerModality, SamplerConfig
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.denoiser import Denoise, DenoiserInputs, Latents, Text, Timesteps
from con360av_jax.diffusion.schedule import by_modality

Guided: TypeAlias = Callable[[Latents, Timesteps, Latents, Mapping[str, Array] | None], Latents]
"""(latents, timesteps, clean_estimates, whether each modality is guided) -> prediction; None: all are guided."""
Weights: TypeAlias = Mapping["Pass", Mapping[str, float]]
"""Weights of equation (1) by pass and modality; a pass that is not needed has none."""


class Pass(NamedTuple):
    """Conditions that one prediction sees."""

    text: bool
    """True: the caption; False: the negative caption."""
    saliency: bool
    basd: bool


CONDITIONED = Pass(text=True, saliency=True, basd=True)
"""e_tsb of equation (1), the only pass without guidance."""
PASSES = (
    Pass(text=False, saliency=False, basd=False),
    Pass(text=False, saliency=False, basd=True),
    Pass(text=False, saliency=True, basd=True),
    CONDITIONED,
)
"""e_0, e_b, e_sb and e_tsb."""


def pass_weights(config: SamplerConfig) -> dict[Pass, dict[str, float]]:
    """Weights of equation (1) by pass and modality, without those that are 0."""
    text, basd = by_modality(config.text_guidance), by_modality(config.map_guidance)
    saliency = {name: basd[name] if g is None else g for name, g in by_modality(config.saliency_guidance).items()}
    weights: dict[Pass, dict[str, float]] = {which: {} for which in PASSES}
    for name in text:
        scales = (1.0, basd[name], saliency[name], text[name], 0.0)
        for which, (scale, following) in zip(PASSES, pairwise(scales), strict=True):
            if scale != following:
                weights[which][name] = scale - following
    return {which: by_name for which, by_name in weights.items() if by_name}


def guided(
    denoise: Denoise,
    text: Text,
    negative_text: Text,
    maps: Float[Array, "batch frame height width 2"] | None,
    map_mask: Bool[Array, "batch"] | None,
    weights: Weights,
) -> Guided:
    """The guided prediction as a function that calls `denoise` once.

    `weights` come from `pass_weights`; a modality that may be left without guidance needs one of CONDITIONED, if only
    0. Rows where `map_mask` is False see no maps in any pass; None means that all see them. Every pass sees the same
    latents and clean estimates. As in the public baseline's sampler, the environment encoders read the current latents
    at the current timesteps.
    """
    passes = {name: tuple(which for which in weights if name in weights[which]) for name in text}
    shown = tuple(dict.fromkeys((which.saliency, which.basd) for name in text for which in passes[name]))
    numbers = {name: tuple(shown.index((which.saliency, which.basd)) for which in passes[name]) for name in text}
    every_text = {
        name: _adjacent([text[name] if which.text else negative_text[name] for which in passes[name]]) for name in text
    }
    every_maps = every_mask = None
    if maps is not None:
        basd_alone = maps.at[..., 0].set(0.0)
        every_maps = _adjacent([maps if saliency else basd_alone for saliency, _ in shown])
        controlled = jnp.ones(maps.shape[:1], bool) if map_mask is None else map_mask
        every_mask = _adjacent([controlled if basd else jnp.zeros_like(controlled) for _, basd in shown])

    def predict(
        latents: Latents, timesteps: Timesteps, clean_estimates: Latents, is_guided: Mapping[str, Array] | None
    ) -> Latents:
        made = denoise(
            DenoiserInputs(
                latents=latents,
                timesteps=timesteps,
                text=every_text,
                clean_estimates=clean_estimates,
                connector_timesteps=timesteps,
                connector_latents=latents,
                maps=every_maps,
                map_mask=every_mask,
                passes=PerModality(**{name: numbers.get(name, ()) for name in MODALITIES}),
            )
        )
        return {
            name: _combined(
                rearrange(rows, "(batch passes) ... -> passes batch ...", batch=len(latents[name])),
                {which: weights[which][name] for which in passes[name]},
                None if is_guided is None else is_guided[name],
            )
            for name, rows in made.items()
        }

    return predict


def _combined(
    predictions: Float[Array, "passes batch ..."], weights: Mapping[Pass, float], is_guided: Array | None
) -> Float[Array, "batch ..."]:
    """Equation (1) for one modality, in float32; the prediction of CONDITIONED alone where `is_guided` is false."""
    scales: list[float | Array] = list(weights.values())
    if is_guided is not None:
        scales = [jnp.where(is_guided, scale, float(which == CONDITIONED)) for which, scale in weights.items()]
    return reduce(jnp.add, (scale * row.astype(jnp.float32) for scale, row in zip(scales, predictions, strict=True)))


def _adjacent(values: Sequence[Array]) -> Array:
    """The values of all passes, those of one row adjacent: a batch that is split over devices stays in place."""
    return rearrange(list(values), "passes batch ... -> (batch passes) ...")
