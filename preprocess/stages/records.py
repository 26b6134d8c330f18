"""Samples of stage "encode": the arrays of one viewpoint of one segment, joined into a record."""

import numpy as np
from jaxtyping import Float32, Int16

from con360av_jax.data.schema import Sample, sample_key
from preprocess.stages.segment import Window


def make_sample(
    window: Window,
    viewpoint_index: int,
    caption: str,
    arrays: dict[str, np.ndarray],
    fields: tuple[str, ...],
    peak: float | None = None,
) -> Sample:
    """A sample that holds those of `arrays` that are named in `fields`; `peak` is that of its viewpoint, if known."""
    return Sample(
        key=sample_key(window.clip.name, window.index, viewpoint_index),
        clip=window.clip.name,
        start=window.start,
        segment=window.index,
        viewpoint_index=viewpoint_index,
        caption=caption,
        arrays={name: arrays[name] for name in fields},
        peak=peak,
    )


def pulse_code(audio: Float32[np.ndarray, " sample"]) -> Int16[np.ndarray, " sample"]:
    """Converts audio in [-1, 1] to 16-bit samples."""
    return np.clip(np.round(audio * 32768), -32768, 32767).astype(np.int16)
