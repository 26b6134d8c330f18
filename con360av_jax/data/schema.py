"""The record format: what one sample holds, how it becomes bytes, and the manifest that describes a dataset folder."""

import json
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from cattrs.errors import BaseValidationError

from con360av_jax.config.files import from_dict, problems, structure, unstructure
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES, latent_shapes, maps_shape, mel_frames, sound_samples, text_shapes
from con360av_jax.errors import ConfigError, DatasetError

SCHEMA_VERSION = 1

MAP_FIELDS = ("saliency", "viewpoint")
RAW_FIELDS = ("video", "sound", "mel")
ENCODED_FIELDS = (
    "audio_latent_mean",
    "audio_latent_std",
    "video_latent_mean",
    "video_latent_std",
    "clap_text",
    "clip_text",
)
# Largest excess over [0, 1] that float32 min-max normalisation can leave behind.
SALIENCY_TOLERANCE = 1e-5
# What safetensors calls the types of `field_specs`, little-endian as it stores them.
STORED = {"F32": np.dtype("<f4"), "U8": np.dtype("u1"), "I16": np.dtype("<i2")}


class FieldSpec(NamedTuple):
    """Shape and dtype of one array of a sample."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{self.dtype.name}{list(self.shape)}"


def field_specs(config: Config) -> dict[str, FieldSpec]:
    """Every array a sample can hold: `video` (frame height width 3), `sound` (sample), `mel` (time mel), latents scaled
    by the VAE's factor, text embeddings, `saliency` (frame height width 1) in [0, 1], `viewpoint` (frame 4) in rad."""
    clip, latent, text = config.clip, latent_shapes(config), text_shapes(config)
    real = np.dtype(np.float32)
    specs = {
        "video": FieldSpec((clip.frames, clip.height, clip.width, 3), np.dtype(np.uint8)),
        "sound": FieldSpec((sound_samples(config),), np.dtype(np.int16)),
        "mel": FieldSpec((mel_frames(config), config.mel.bands), real),
        "clap_text": FieldSpec(text["audio"], real),
        "clip_text": FieldSpec(text["video"], real),
        "saliency": FieldSpec((*maps_shape(config)[:-1], 1), real),
        "viewpoint": FieldSpec((clip.frames, 4), real),
    }
    for name in MODALITIES:
        specs |= {f"{name}_latent_{moment}": FieldSpec(latent[name], real) for moment in ("mean", "std")}
    return specs


@dataclass(frozen=True)
class SampleEntry:
    """Everything about a sample except its arrays; one line of a dataset's index."""

    key: str
    """The name of the sample, unique in its dataset, see `sample_key`."""
    clip: str
    start: float
    """Where the segment begins in the clip, s."""
    segment: int
    viewpoint_index: int
    caption: str


@dataclass(frozen=True)
class Sample(SampleEntry):
    """One record: a segment of a clip seen from one viewpoint."""

    arrays: dict[str, np.ndarray]
    """By field name, see `field_specs`; the manifest says which fields a dataset holds."""

    @property
    def entry(self) -> SampleEntry:
        """The sample without its arrays."""
        return SampleEntry(self.key, self.clip, float(self.start), self.segment, self.viewpoint_index, self.caption)


def sample_key(clip: str, segment: int, viewpoint_index: int) -> str:
    """The one way to name a sample: clip, segment and viewpoint joined by slashes."""
    return f"{clip}/{segment}/{viewpoint_index}"


def to_bytes(sample: Sample) -> bytes:
    """`sample` as a safetensors byte string; equal samples give equal bytes."""
    # One metadata entry: safetensors writes several in an order that differs from call to call.
    metadata = {"sample": json.dumps(unstructure(sample.entry), sort_keys=True)}
    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(sample.arrays.items())}
    return safetensors.numpy.save(arrays, metadata=metadata)


def from_bytes(data: bytes) -> Sample:
    """The inverse of `to_bytes`; raises DatasetError if `data` is not a sample. Its arrays are read-only views."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        entry = structure(json.loads(header.pop("__metadata__")["sample"]), SampleEntry)
        # The library would copy every array, a tenth of the time that a record takes.
        arrays = {name: _view(data, 8 + length, **described) for name, described in header.items()}
    except BaseValidationError as error:
        raise DatasetError(f"a record's description is corrupt: {problems(error)}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DatasetError(f"a record of {len(data)} bytes is no sample: {error!r}; write the dataset again") from error
    return Sample(**vars(entry), arrays=arrays)


def _view(data: bytes, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    """One array of a safetensors byte string whose arrays begin at `start`."""
    first, last = data_offsets
    if not 0 <= first <= last <= len(data) - start:
        raise ValueError(f"it ends before byte {start + last}")
    return np.frombuffer(memoryview(data)[start + first : start + last], STORED[dtype]).reshape(shape)


def validate(sample: Sample, config: Config, fields: tuple[str, ...]) -> None:
    """Raises DatasetError unless `sample` holds exactly `fields`, each of its shape and dtype and finite."""
    wanted_key = sample_key(sample.clip, sample.segment, sample.viewpoint_index)
    if sample.key != wanted_key:
        raise DatasetError(f"sample {sample.key!r} must be called {wanted_key!r}: clip, segment, viewpoint")
    specs = field_specs(config)
    for name in fields:
        if name not in specs:
            raise DatasetError(f"{name!r} is no field of a sample: use some of {', '.join(specs)}")
        if name not in sample.arrays:
            raise DatasetError(
                f"sample {sample.key} lacks the field {name!r}; it has {', '.join(sorted(sample.arrays))}"
            )
        array = sample.arrays[name]
        given = FieldSpec(array.shape, array.dtype)
        if given != specs[name]:
            raise DatasetError(f"sample {sample.key}: field {name!r} is {given}, wanted {specs[name]}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DatasetError(
                f"sample {sample.key}: field {name!r} holds NaN or infinity in {np.sum(~np.isfinite(array))} places"
            )
    unknown = sorted(set(sample.arrays) - set(fields))
    if unknown:
        raise DatasetError(f"sample {sample.key} holds {', '.join(unknown)}, which the dataset does not declare")
    if "saliency" in fields:
        low, high = float(sample.arrays["saliency"].min()), float(sample.arrays["saliency"].max())
        if low < -SALIENCY_TOLERANCE or high > 1 + SALIENCY_TOLERANCE:
            raise DatasetError(f"sample {sample.key}: saliency lies in [{low:g}, {high:g}], wanted [0, 1]")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a dataset folder."""

    file: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a dataset folder holds; manifest.json."""

    schema_version: int
    name: str
    config: dict[str, object]
    """`config_io.to_dict` of the config that the samples were made with."""
    fields: tuple[str, ...]
    samples: int
    clips: int
    rejected: int
    """Lines of rejected.jsonl."""
    index: FileEntry
    """index.jsonl: one SampleEntry per line, in the order of the records."""
    shards: tuple[FileEntry, ...]
    tools: dict[str, str]
    """Versions of the libraries that wrote the dataset."""
    settings: dict[str, object] = field(default_factory=dict)
    """What the samples were made with beyond the config, as the caller described it."""

    def to_json(self) -> str:
        """Indented JSON with a final newline."""
        return json.dumps(unstructure(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> "Manifest":
        """Reads `to_json`; raises DatasetError naming `source` if it is not JSON, of another schema or corrupt."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise DatasetError(f"{source} is not JSON ({error}); write the dataset again") from error
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise DatasetError(
                f"{source} has schema version {version}, this program reads version {SCHEMA_VERSION}; "
                "write the dataset again with this program or read it with the one that wrote it"
            )
        try:
            return structure(data, cls)
        except BaseValidationError as error:
            raise DatasetError(f"{source} is corrupt: {problems(error)}") from error


def manifest_config(manifest: Manifest) -> Config:
    """The config the dataset was made with; raises DatasetError if this program does not know its settings."""
    try:
        return from_dict(manifest.config)
    except ConfigError as error:
        raise DatasetError(f"dataset {manifest.name!r} has a config this program cannot read: {error}") from error


def check_matches(manifest: Manifest, config: Config) -> None:
    """Raises DatasetError naming each difference unless samples of `manifest` fit a model built from `config`."""
    made = manifest_config(manifest)
    pairs = [
        (f"{part}.{name}", old, new)
        for part, skipped in (("clip", {"hop_seconds"}), ("mel", set[str]()))
        for (name, old), new in zip(
            vars(getattr(made, part)).items(), vars(getattr(config, part)).values(), strict=True
        )
        if name not in skipped
    ]
    old_specs, new_specs = field_specs(made), field_specs(config)
    pairs += [(name, old_specs[name], new_specs[name]) for name in ENCODED_FIELDS if name in manifest.fields]
    pairs += [
        (f"model.vae.{name}.scaling_factor", old.scaling_factor, new.scaling_factor)
        for name in MODALITIES
        if f"{name}_latent_mean" in manifest.fields
        for old, new in [(getattr(made.model.vae, name), getattr(config.model.vae, name))]
    ]
    differences = [f"{name} is {old} in the dataset, {new} in the config" for name, old, new in pairs if old != new]
    if differences:
        raise DatasetError(
            f"dataset {manifest.name!r} does not fit config {config.name!r}: {'; '.join(differences)}; "
            "use the dataset's config or preprocess again with this one"
        )
