"""From stored samples to training examples: plain callables on NumPy arrays, run by the loader's threads."""

from typing import TypedDict

import numpy as np
from jaxtyping import Float32, Int64

from con360av_jax.data.schema import ENCODED_FIELDS, MAP_FIELDS, Sample
from con360av_jax.errors import DatasetError
from con360av_jax.geometry import basd
from con360av_jax.shapes import MODALITIES

TRAINING_FIELDS = ENCODED_FIELDS + MAP_FIELDS


class Example(TypedDict):
    """One training example, or a batch of them with a leading batch axis."""

    moments: dict[str, dict[str, Float32[np.ndarray, "..."]]]
    """By modality: "mean" and "std" of the scaled latent; latent = mean + std * noise."""
    text: dict[str, Float32[np.ndarray, "..."]]
    """By modality: "audio" the CLAP embedding (channel), "video" CLIP's hidden states (token channel)."""
    maps: Float32[np.ndarray, "*batch frame height width 2"]
    """Saliency and BASD in [0, 1]."""
    viewpoint: Float32[np.ndarray, "*batch frame 4"]
    """Yaw, pitch, horizontal and vertical field of view, rad."""
    sample_id: Int64[np.ndarray, "*batch"]
    """Position of the sample in its dataset."""


def stack_maps(
    saliency: Float32[np.ndarray, "frame height width 1"], viewpoint: Float32[np.ndarray, "frame 4"]
) -> Float32[np.ndarray, "frame height width 2"]:
    """The model's map input from saliency and a viewpoint track (rad).

    BASD is made here, so that a viewpoint can change without rewriting the data.
    """
    _, height, width, _ = saliency.shape
    distance = basd(viewpoint, height, width)
    return np.concatenate([saliency, distance[..., None]], axis=-1).astype(np.float32, copy=False)


def to_example(sample: Sample, sample_id: int) -> Example:
    """`sample` as a training example; raises DatasetError if it lacks an encoded field."""
    check_trainable(tuple(sample.arrays), sample.key)
    arrays = sample.arrays
    return Example(
        moments={
            name: {moment: arrays[f"{name}_latent_{moment}"] for moment in ("mean", "std")} for name in MODALITIES
        },
        text={"audio": arrays["clap_text"], "video": arrays["clip_text"]},
        maps=stack_maps(arrays["saliency"], arrays["viewpoint"]),
        viewpoint=arrays["viewpoint"],
        sample_id=np.asarray(sample_id, dtype=np.int64),
    )


def check_trainable(fields: tuple[str, ...], source: str) -> None:
    """Raises DatasetError naming `source` unless `fields` holds everything a training example needs."""
    missing = [name for name in TRAINING_FIELDS if name not in fields]
    if missing:
        raise DatasetError(f"{source} cannot be trained on: it lacks {', '.join(missing)}; preprocess with encoding")
