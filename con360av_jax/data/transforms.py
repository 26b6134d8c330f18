"""From stored samples to training examples: plain callables on NumPy arrays, run by the loader's threads."""

from collections.abc import Callable
from typing import TypeAlias, TypedDict

import cv2
import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from con360av_jax.data.schema import ENCODED_FIELDS, MAP_FIELDS, Sample
from con360av_jax.errors import DatasetError
from con360av_jax.geometry import basd
from con360av_jax.shapes import MODALITIES

TRAINING_FIELDS = ENCODED_FIELDS + MAP_FIELDS
UNENCODED_FIELDS = ("video", "mel", *MAP_FIELDS)
"""What a record needs at least to be encoded on the device; its caption comes with every record."""


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


class CaptionTokens(TypedDict):
    """A caption as one text encoder reads it."""

    ids: Int32[np.ndarray, "*batch token"]
    mask: Bool[np.ndarray, "*batch token"]
    """False on padding."""


class RawExample(TypedDict):
    """One training example before the frozen encoders, or a batch of them; see `train.encode`."""

    video: UInt8[np.ndarray, "*batch frame height width 3"]
    mel: Float32[np.ndarray, "*batch time mel"]
    """Log-mel."""
    tokens: dict[str, CaptionTokens]
    """By modality, as the base's tokenizers give them."""
    maps: Float32[np.ndarray, "*batch frame height width 2"]
    viewpoint: Float32[np.ndarray, "*batch frame 4"]
    sample_id: Int64[np.ndarray, "*batch"]


Tokenise: TypeAlias = Callable[[str], dict[str, CaptionTokens]]
"""The tokens of one caption by modality; called from several threads at once."""


def stack_maps(
    saliency: Float32[np.ndarray, "frame height width 1"], viewpoint: Float32[np.ndarray, "frame 4"]
) -> Float32[np.ndarray, "frame height width 2"]:
    """The model's map input from saliency and a viewpoint track (rad).

    BASD is made here, so that a viewpoint can change without rewriting the data.
    """
    _, height, width, _ = saliency.shape
    distance = basd(viewpoint, height, width)
    # OpenCV interleaves two planes twice as fast as numpy; it knows no third axis.
    maps = (saliency[..., 0].astype(np.float32, copy=False), distance)
    planes = [rearrange(plane, "frame height width -> (frame height) width") for plane in maps]
    return rearrange(cv2.merge(planes), "(frame height) width map -> frame height width map", height=height)


def to_example(sample: Sample, sample_id: int) -> Example:
    """`sample` as a training example; raises DatasetError if it lacks an encoded field."""
    _require(TRAINING_FIELDS, tuple(sample.arrays), sample.key)
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


def to_raw_example(sample: Sample, sample_id: int, tokenise: Tokenise) -> RawExample:
    """`sample` as a training example for the encoders on the device; raises DatasetError if it lacks a raw field."""
    _require(UNENCODED_FIELDS, tuple(sample.arrays), sample.key)
    arrays = sample.arrays
    return RawExample(
        video=arrays["video"],
        mel=arrays["mel"],
        tokens=tokenise(sample.caption),
        maps=stack_maps(arrays["saliency"], arrays["viewpoint"]),
        viewpoint=arrays["viewpoint"],
        sample_id=np.asarray(sample_id, dtype=np.int64),
    )


def is_encoded(fields: tuple[str, ...]) -> bool:
    """Whether records of these fields hold what the frozen encoders give; if not, the device encodes."""
    return all(name in fields for name in ENCODED_FIELDS)


def check_trainable(fields: tuple[str, ...], source: str) -> None:
    """Raises DatasetError naming `source` unless `fields` make a training example, encoded or raw."""
    if not is_encoded(fields) and all(name in fields for name in UNENCODED_FIELDS):
        return
    _require(TRAINING_FIELDS, fields, source)


def _require(wanted: tuple[str, ...], fields: tuple[str, ...], source: str) -> None:
    missing = [name for name in wanted if name not in fields]
    if missing:
        raise DatasetError(
            f"{source} cannot be trained on: it lacks {', '.join(missing)}; preprocess with encoding, or keep "
            "pictures and sound"
        )
