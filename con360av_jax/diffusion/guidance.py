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

Guided: TypeAlias = Callable[[Latents, Timesteps, Latents, Mapping[str, Array]], Latents]
"""(latents, timesteps, clean_estimates, scalars by modality: whether it is guided) -> guided prediction."""


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
    """Weights of equation (1) by pass and modality, 0 where a pass is not needed; passes of no weight are left out."""
    text, basd = by_modality(config.text_guidance), by_modality(config.map_guidance)
    saliency = {name: basd[name] if g is None else g for name, g in by_modality(config.saliency_guidance).items()}
    weights: dict[Pass, dict[str, float]] = {which: {} for which in PASSES}
    for name in text:
        scales = (1.0, basd[name], saliency[name], text[name], 0.0)
        for which, (scale, following) in zip(PASSES, pairwise(scales), strict=True):
            weights[which][name] = scale - following
    return {which: by_name for which, by_name in weights.items() if any(by_name.values())}


def guided(
    denoise: Denoise,
    text: Text,
    negative_text: Text,
    maps: Float[Array, "batch frame height width 2"] | None,
    map_mask: Bool[Array, "batch"] | None,
    weights: Mapping[Pass, Mapping[str, float]],
    *,
    always: bool = True,
) -> Guided:
    """The guided prediction as a function that calls `denoise` once.

    `weights` come from `pass_weights`; a modality's predictions of weight 0 are not computed. Rows where `map_mask` is
    False see no maps in any pass; None means that all see them. Every pass sees the same latents and clean estimates.
    As in the public baseline's sampler, the environment encoders read the current latents at the current timesteps.
    With `always` every call is guided, whatever its last argument says; without, CONDITIONED must be in `weights`.
    """
    passes = {
        name: tuple(which for which in weights if weights[which][name] or (which == CONDITIONED and not always))
        for name in text
    }
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
        latents: Latents, timesteps: Timesteps, clean_estimates: Latents, is_guided: Mapping[str, Array]
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
        found: Latents = {}
        for name, rows in made.items():
            each = rearrange(rows, "(batch passes) ... -> passes batch ...", batch=len(latents[name]))
            scales: list[float | Array] = [weights[which][name] for which in passes[name]]
            if not always:
                alone = [1.0 if which == CONDITIONED else 0.0 for which in passes[name]]
                scales = [jnp.where(is_guided[name], *both) for both in zip(scales, alone, strict=True)]
            terms = (scale * eps.astype(jnp.float32) for scale, eps in zip(scales, each, strict=True))
            found[name] = reduce(jnp.add, terms)
        return found

    return predict


def _adjacent(values: Sequence[Array]) -> Array:
    """The values of all passes, those of one row adjacent: a batch that is split over devices stays in place."""
    return rearrange(list(values), "passes batch ... -> (batch passes) ...")
