"""From stored samples to training examples: plain callables on NumPy arrays, run by the loader's threads."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypedDict

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from con360av_jax.config.shapes import MODALITIES
from con360av_jax.data.schema import ENCODED_FIELDS, MAP_FIELDS, Sample
from con360av_jax.errors import DatasetError
from con360av_jax.sphere.geometry import basd

TRAINING_FIELDS = ENCODED_FIELDS + MAP_FIELDS
UNENCODED_FIELDS = ("video", "mel", *MAP_FIELDS)
"""Fields that a record needs to be encoded on the device; the caption is part of every record."""


class Example(TypedDict):
    """One training example, or a batch of them with a leading batch axis."""

    moments: dict[str, dict[str, Float32[np.ndarray, "..."]]]
    """Modality -> "mean" and "std" of the scaled latent; latent = mean + std * noise."""
    text: dict[str, Float32[np.ndarray, "..."]]
    """Modality -> text embedding: "audio" that of CLAP (channel), "video" hidden states of CLIP (token channel)."""
    maps: Float32[np.ndarray, "*batch frame height width 2"]
    """Saliency and BASD in [0, 1]."""
    viewpoint: Float32[np.ndarray, "*batch frame 4"]
    """Yaw, pitch, horizontal and vertical field of view (rad)."""
    sample_id: Int64[np.ndarray, "*batch"]
    """Position of the sample in its dataset."""


class CaptionTokens(TypedDict):
    """Tokens of a caption for one text encoder."""

    ids: Int32[np.ndarray, "*batch token"]
    """Token ids."""
    mask: Bool[np.ndarray, "*batch token"]
    """False on padding."""


class RawExample(TypedDict):
    """One training example before the frozen encoders (train/encode.py), or a batch of them."""

    video: UInt8[np.ndarray, "*batch frame height width 3"]
    mel: Float32[np.ndarray, "*batch time mel"]
    """Log-mel."""
    tokens: dict[str, CaptionTokens]
    """Modality -> tokens of the caption."""
    maps: Float32[np.ndarray, "*batch frame height width 2"]
    viewpoint: Float32[np.ndarray, "*batch frame 4"]
    sample_id: Int64[np.ndarray, "*batch"]


Tokenise: TypeAlias = Callable[[str], dict[str, CaptionTokens]]
"""Returns the tokens of one caption per modality; called from several threads at once."""


class MapPlanes(NamedTuple):
    """The two maps of one sample as separate arrays; `collate` interleaves them in the batch."""

    saliency: Float32[np.ndarray, "frame height width 1"]
    """Saliency in [0, 1]."""
    distance: Float32[np.ndarray, "frame height width"]
    """BASD (boundary-aware signed distance) in [0, 1]."""

    def interleave(self, out: Float32[np.ndarray, "frame height width 2"]) -> None:
        """Writes both maps to `out`, which must be contiguous."""
        # OpenCV interleaves twice as fast as numpy, but only a frame at a time: it knows no fourth axis.
        for saliency, distance, both in zip(self.saliency[..., 0], self.distance, out, strict=True):
            cv2.merge((saliency, distance), both)


def map_planes(
    saliency: Float32[np.ndarray, "frame height width 1"], viewpoint: Float32[np.ndarray, "frame 4"]
) -> MapPlanes:
    """Returns the maps of one sample from its saliency and its viewpoint track (rad).

    BASD is made here, so that a viewpoint can change without rewriting the data.
    """
    _, height, width, _ = saliency.shape
    return MapPlanes(saliency.astype(np.float32, copy=False), basd(viewpoint, height, width))


def stack_maps(
    saliency: Float32[np.ndarray, "frame height width 1"], viewpoint: Float32[np.ndarray, "frame 4"]
) -> Float32[np.ndarray, "frame height width 2"]:
    """Returns the model's map input from saliency and a viewpoint track (rad)."""
    return collate([map_planes(saliency, viewpoint)])[0]


def collate(examples: Sequence[Any]) -> Any:
    """Stacks examples, or one field of them, along a new leading axis; MapPlanes are interleaved.

    Maps are written straight into the batch: they are most of an example, and a copy of them costs as much
    as reading them.
    """
    first = examples[0]
    if isinstance(first, MapPlanes):
        maps = np.empty((len(examples), *first.saliency.shape[:-1], 2), np.float32)
        for planes, out in zip(examples, maps, strict=True):
            planes.interleave(out)
        return maps
    if isinstance(first, dict):
        return {name: collate([example[name] for example in examples]) for name in first}
    return np.stack(examples)


def to_parts(sample: Sample, sample_id: int, tokenise: Tokenise | None = None) -> dict[str, Any]:
    """Returns `sample` as an Example, or with `tokenise` as a RawExample, but with MapPlanes for `collate`.

    Raises DatasetError if the sample lacks a field.
    """
    arrays = sample.arrays
    _require(TRAINING_FIELDS if tokenise is None else UNENCODED_FIELDS, tuple(arrays), sample.key)
    shared = {
        "maps": map_planes(arrays["saliency"], arrays["viewpoint"]),
        "viewpoint": arrays["viewpoint"],
        "sample_id": np.asarray(sample_id, dtype=np.int64),
    }
    if tokenise is not None:
        return {"video": arrays["video"], "mel": arrays["mel"], "tokens": tokenise(sample.caption), **shared}
    return {
        "moments": {
            name: {moment: arrays[f"{name}_latent_{moment}"] for moment in ("mean", "std")} for name in MODALITIES
        },
        "text": {"audio": arrays["clap_text"], "video": arrays["clip_text"]},
        **shared,
    }


def is_encoded(fields: tuple[str, ...]) -> bool:
    """Whether records with these fields hold the outputs of the frozen encoders; otherwise the device encodes."""
    return all(name in fields for name in ENCODED_FIELDS)


def check_trainable(fields: tuple[str, ...], source: str) -> None:
    """Raises DatasetError naming `source` unless `fields` are enough for a training example, encoded or raw."""
    if not is_encoded(fields) and all(name in fields for name in UNENCODED_FIELDS):
        return
    _require(TRAINING_FIELDS, fields, source)


def _require(wanted: tuple[str, ...], fields: tuple[str, ...], source: str) -> None:
    missing = [name for name in wanted if name not in fields]
    if missing:
        raise DatasetError(
            f"{source} cannot be trained on: it lacks {', '.join(missing)}; preprocess with encoding, or with "
            "--keep-raw"
        )
