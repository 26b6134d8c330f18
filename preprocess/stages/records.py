"""Stage 8, records: the arrays of one viewpoint of one segment joined into a sample."""

import numpy as np
from jaxtyping import Float32, Int16

from con360av_jax.data.schema import MAP_FIELDS, RAW_FIELDS, Sample, sample_key
from preprocess.stages.encode import Encoder
from preprocess.stages.segment import Window


def fields_of(encoder: Encoder, keep_raw: bool) -> tuple[str, ...]:
    """The fields of every sample: encoded ones, raw ones if wanted or if nothing is encoded, and the maps."""
    raw = RAW_FIELDS if keep_raw or not encoder.fields else ()
    return (*raw, *encoder.fields, *MAP_FIELDS)


def make_sample(
    window: Window, viewpoint_index: int, caption: str, arrays: dict[str, np.ndarray], fields: tuple[str, ...]
) -> Sample:
    """The sample with those of `arrays` that are `fields`."""
    return Sample(
        key=sample_key(window.clip.name, window.index, viewpoint_index),
        clip=window.clip.name,
        start=window.start,
        segment=window.index,
        viewpoint_index=viewpoint_index,
        caption=caption,
        arrays={name: arrays[name] for name in fields},
    )


def pulse_code(sound: Float32[np.ndarray, " sample"]) -> Int16[np.ndarray, " sample"]:
    """Sound in [-1, 1] as 16-bit samples."""
    return np.clip(np.round(sound * 32768), -32768, 32767).astype(np.int16)
