"""The contract between pretraining and an objective: its data, its loss, and what is measured on held-out data.

Parameters are nested dicts that begin with the part of the base. A path such as "joint/unet/video" names a part or
what lies below it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float, UInt32

from con360av_jax.models.functional import Params

Batch: TypeAlias = Mapping[str, Array]
Keys: TypeAlias = UInt32[Array, "batch 2"]
"""Data of one random key per row, so that the numbers of a row do not depend on how a batch is divided."""
Sums: TypeAlias = dict[str, Array]
"""Sums over a batch, which add up over batches."""
AUDIO_EXCERPTS = 4
"""Training examples of one scene's audio: to make the audio of a scene takes as long as a step on excerpts of it."""


Rendered: TypeAlias = Literal["stills", "videos", "audio"]
"""Kinds of samples of procedural scenes (scenes/sources.py)."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Pretraining of one part of a base."""

    part: str
    """Name of the objective."""
    trains: tuple[str, ...]
    """Paths of the base that are trained."""
    trainable: str = ".*"
    """Regular expression that matches the whole paths of those parameters below `trains` that are trained."""
    reads: tuple[str, ...] = ()
    """Further paths of the base, which `loss` or `measure` read."""
    fields: tuple[str, ...]
    """Arrays of a record that an example is made from (data/schema.py); a scene has them too."""
    scenes: Rendered
    """Kind of the scenes' samples."""
    text: str | None = None
    """Modality whose text encoder's tokens examples have besides, as "ids" and "mask" of a caption of the sample, and
    "null_ids" and "null_mask" of the empty one (token); None for no text."""
    example: Callable[[Mapping[str, np.ndarray], np.random.Generator], dict[str, np.ndarray]]
    """Makes a training example from the arrays of one record or scene: a random excerpt."""
    examples_per_scene: int = 1
    """Examples that are drawn from one scene, in consecutive batches."""
    whole: Callable[[Mapping[str, np.ndarray], np.random.Generator], dict[str, np.ndarray]]
    """Makes a held-out example, of the size that the part is used at."""
    loss: Callable[[Params, Batch, Keys], tuple[Array, dict[str, Array]]]
    """Mean over rows of the loss, and its terms with the total as "loss"; float32. The parameters are those of
    `trains` and `reads`, as for the functions below."""
    measure: Callable[[Params, Batch], tuple[Sums, dict[str, Array]]]
    """Sums over a held-out batch, and inputs and outputs to look at or to hear, as "input_KIND" and "output_KIND";
    KIND is frames (bytes), mel or audio. Outputs of a generative model come from `sample` instead."""
    sample: Callable[[Params, Batch], dict[str, Array]] | None = None
    """Generates from the captions of a held-out batch: inputs and outputs as those of `measure`."""
    summarise: Callable[[Mapping[str, float]], dict[str, float]]
    """Turns the sums over all held-out batches into measures; "loss" is the one that is to fall."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Measure -> its unit, for reports."""


def noise(keys: Keys, like: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """Standard normal numbers in the shape of `like`, row by row from the row's key."""

    def row(data: UInt32[Array, "2"]) -> Array:
        return jax.random.normal(jax.random.wrap_key_data(data), like.shape[1:], like.dtype)

    return jax.vmap(row)(keys)


def window(length: int, size: int, random: np.random.Generator) -> slice:
    """Returns a random excerpt of `size` out of `length`."""
    start = int(random.integers(length - size + 1))
    return slice(start, start + size)
