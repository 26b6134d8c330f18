"""Random samples and batches with the loader's structure, for tests, benchmarks and compiling without data."""

import jax
import numpy as np
from jaxtyping import PyTree

from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES, latent_shapes, maps_shape, text_shapes
from con360av_jax.data.schema import ENCODED_FIELDS, MAP_FIELDS, RAW_FIELDS, Sample, field_specs, sample_key
from con360av_jax.data.transforms import Example, collate, to_parts

ALL_FIELDS = RAW_FIELDS + ENCODED_FIELDS + MAP_FIELDS
VIEW_RANGE = np.radians([[-180, -60, 60, 60], [180, 60, 100, 100]])
"""Lowest and highest yaw, pitch, horizontal and vertical field of view of fake viewpoints (rad)."""


def fake_sample(config: Config, number: int, seed: int = 0, fields: tuple[str, ...] = ALL_FIELDS) -> Sample:
    """Returns sample `number` of a fake dataset: noise of the right shapes and ranges and a constant viewpoint.

    Equal arguments give equal arrays.
    """
    random = np.random.default_rng([seed, number])
    specs = field_specs(config)
    arrays: dict[str, np.ndarray] = {}
    for name in ALL_FIELDS:
        shape, dtype = specs[name]
        if name == "viewpoint":
            array = np.broadcast_to(random.uniform(*VIEW_RANGE), shape)
        elif dtype.kind in "iu":
            limits = np.iinfo(dtype)
            array = random.integers(limits.min, limits.max, size=shape, endpoint=True)
        elif name == "saliency" or name.endswith("_std"):
            array = random.random(size=shape)
        else:
            array = random.standard_normal(size=shape)
        arrays[name] = array.astype(dtype)
    arrays["clap_text"] /= np.linalg.norm(arrays["clap_text"])
    clip, segment = f"fake_{number:06d}", 0
    return Sample(
        key=sample_key(clip, segment, 0),
        clip=clip,
        start=float(segment * config.clip.hop_seconds),
        segment=segment,
        viewpoint_index=0,
        caption=f"fake scene {number}",
        arrays={name: arrays[name] for name in fields},
    )


def fake_batch(config: Config, batch_size: int, seed: int = 0) -> Example:
    """Returns a batch of random samples, structured as the loader's."""
    fields = ENCODED_FIELDS + MAP_FIELDS
    return collate([to_parts(fake_sample(config, number, seed, fields), number) for number in range(batch_size)])


def batch_spec(config: Config, batch_size: int) -> PyTree[jax.ShapeDtypeStruct]:
    """Returns the structure of a batch with a jax.ShapeDtypeStruct in place of every array."""

    def spec(*shape: int, dtype: type = np.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    latent, text = latent_shapes(config), text_shapes(config)
    return {
        "moments": {name: {moment: spec(*latent[name]) for moment in ("mean", "std")} for name in MODALITIES},
        "text": {name: spec(*text[name]) for name in MODALITIES},
        "maps": spec(*maps_shape(config)),
        "viewpoint": spec(config.clip.frames, 4),
        "sample_id": spec(dtype=np.int64),
    }
