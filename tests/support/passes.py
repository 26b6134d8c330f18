"""Several predictions of every row (DenoiserInputs.passes) from a denoiser that makes one, one after the other."""

from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Array

from con360av_jax.denoiser import Denoise, DenoiserInputs, Latents


def one_after_the_other(denoise: Denoise) -> Denoise:
    """A denoiser that calls `denoise` for every pass of every modality with inputs of as many rows as latents."""

    def every_pass(inputs: DenoiserInputs) -> Latents:
        return {name: _predictions(denoise, inputs, name) for name in inputs.latents}

    return every_pass


def alone(inputs: DenoiserInputs, modality: str, number: int) -> DenoiserInputs:
    """Inputs of the pass `number` of a modality; the captions of others are those of their first pass."""
    passes = inputs.passes
    assert passes is not None
    batch = len(inputs.latents[modality])

    def row(x: Array | None, which: int) -> Array | None:
        return None if x is None else x.reshape(batch, -1, *x.shape[1:])[:, which]

    shown = getattr(passes, modality)[number]
    text = {name: row(rows, number if name == modality else 0) for name, rows in inputs.text.items()}
    return replace(inputs, text=text, maps=row(inputs.maps, shown), map_mask=row(inputs.map_mask, shown), passes=None)


def _predictions(denoise: Denoise, inputs: DenoiserInputs, modality: str) -> Array:
    passes = getattr(inputs.passes, modality)
    made = [denoise(alone(inputs, modality, number))[modality] for number in range(len(passes))]
    return jnp.stack(made, axis=1).reshape(-1, *made[0].shape[1:])
