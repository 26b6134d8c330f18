"""The record format: the arrays of a sample, its encoding as bytes, and the manifest of a dataset folder."""

import json
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from cattrs.errors import BaseValidationError

from con360av_jax.config.files import from_dict, problems, structure, unstructure
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES, audio_samples, latent_shapes, maps_shape, mel_frames, text_shapes
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
# Names of safetensors for the data types of `field_specs`; it stores them little-endian.
STORED = {"F32": np.dtype("<f4"), "U8": np.dtype("u1"), "I16": np.dtype("<i2")}


class FieldSpec(NamedTuple):
    """Shape and dtype of one array of a sample."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{self.dtype.name}{list(self.shape)}"


def field_specs(config: Config) -> dict[str, FieldSpec]:
    """Returns shape and dtype of every array that a sample can hold.

    `video` (frame height width 3), `sound` (sample), `mel` (time mel), latents scaled by the VAE's factor,
    text embeddings, `saliency` (frame height width 1) in [0, 1], `viewpoint` (frame 4) in rad.
    """
    clip, latent, text = config.clip, latent_shapes(config), text_shapes(config)
    real = np.dtype(np.float32)
    specs = {
        "video": FieldSpec((clip.frames, clip.height, clip.width, 3), np.dtype(np.uint8)),
        "sound": FieldSpec((audio_samples(config),), np.dtype(np.int16)),
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
    """Description of a sample without its arrays; one line of a dataset's index."""

    key: str
    """Name of the sample, unique in its dataset: clip, segment and viewpoint index joined by slashes."""
    clip: str
    """Name of the recording."""
    start: float
    """Start of the segment in the recording (s)."""
    segment: int
    """Number of the segment in the recording (0-based)."""
    viewpoint_index: int
    """Number of the viewpoint in the segment (0-based)."""
    caption: str
    """Description of the whole scene."""
    peak: float | None = field(default=None, kw_only=True)
    """Highest saliency of the viewpoint's region above the mean, in standard deviations over the sphere; 0 for a
    viewpoint that only fills up the number; None where it is not known, such as for given trajectories."""


@dataclass(frozen=True)
class Sample(SampleEntry):
    """One record: a segment of a recording seen from one viewpoint."""

    arrays: dict[str, np.ndarray]
    """Arrays by field name, as in `field_specs`; the manifest lists the fields of a dataset."""

    @property
    def entry(self) -> SampleEntry:
        """Description of the sample without its arrays."""
        return SampleEntry(
            self.key, self.clip, float(self.start), self.segment, self.viewpoint_index, self.caption, peak=self.peak
        )


def sample_key(clip: str, segment: int, viewpoint_index: int) -> str:
    """Returns the name of a sample: clip, segment and viewpoint index joined by slashes."""
    return f"{clip}/{segment}/{viewpoint_index}"


def recording_of(key: str) -> str:
    """Returns the name of a sample's recording from its key, as `sample_key` makes it."""
    return key.rsplit("/", 2)[0]


def describe(entry: SampleEntry) -> dict[str, object]:
    """Returns the JSON object of an entry, without what is not known."""
    return {name: value for name, value in unstructure(entry).items() if value is not None}


def to_bytes(sample: Sample) -> bytes:
    """Encodes `sample` as a safetensors byte string; equal samples give equal bytes."""
    # One metadata entry: safetensors writes several in an order that differs from call to call.
    metadata = {"sample": json.dumps(describe(sample.entry), sort_keys=True)}
    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(sample.arrays.items())}
    return safetensors.numpy.save(arrays, metadata=metadata)


def from_bytes(data: bytes) -> Sample:
    """Decodes the output of `to_bytes`; arrays are read-only views. Raises DatasetError if `data` is not a sample."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        entry = structure(json.loads(header.pop("__metadata__")["sample"]), SampleEntry)
        # safetensors would copy every array, which takes a tenth of the time of reading a record.
        arrays = {name: _view(data, 8 + length, **described) for name, described in header.items()}
    except BaseValidationError as error:
        raise DatasetError(f"a record's description is corrupt: {problems(error)}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DatasetError(f"a record of {len(data)} bytes is not a sample ({error!r}): write it again") from error
    return Sample(**vars(entry), arrays=arrays)


def _view(data: bytes, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    """Returns one array of a safetensors byte string whose arrays begin at byte `start`."""
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
            raise DatasetError(f"{name!r} is not a field of a sample: use some of {', '.join(specs)}")
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
    """File name."""
    records: int
    """Number of records in a shard, or of lines in an index."""
    bytes: int
    """Size of the file (bytes)."""
    sha256: str
    """SHA-256 of the file."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of a dataset folder; manifest.json."""

    schema_version: int
    """Version of the record format."""
    name: str
    """Name of the dataset."""
    config: dict[str, object]
    """Config that the samples were made with, as `config.files.to_dict` gives it."""
    fields: tuple[str, ...]
    """Names of the arrays of every sample."""
    samples: int
    """Number of samples."""
    clips: int
    """Number of recordings."""
    rejected: int
    """Number of lines of rejected.jsonl."""
    index: FileEntry
    """The index file: one SampleEntry per line, in the order of the records."""
    shards: tuple[FileEntry, ...]
    """The ArrayRecord files, in the order of the records."""
    tools: dict[str, str]
    """Versions of the libraries that wrote the dataset."""
    settings: dict[str, object] = field(default_factory=dict)
    """Settings that the samples were made with besides the config, as given by the writer's caller."""

    def to_json(self) -> str:
        """Encodes the manifest as indented JSON with a final newline."""
        return json.dumps(unstructure(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> "Manifest":
        """Decodes a manifest; raises DatasetError naming `source` if it is not JSON, of another schema or corrupt."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise DatasetError(f"{source} is not JSON ({error}); write the dataset again") from error
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise DatasetError(
                f"{source} has schema version {version}, this version reads {SCHEMA_VERSION}; "
                "write the dataset again with this version, or read it with the one that wrote it"
            )
        try:
            return structure(data, cls)
        except BaseValidationError as error:
            raise DatasetError(f"{source} is corrupt: {problems(error)}") from error


def manifest_config(manifest: Manifest) -> Config:
    """Returns the config of the dataset; raises DatasetError if this version does not know its settings."""
    try:
        return from_dict(manifest.config)
    except ConfigError as error:
        raise DatasetError(f"dataset {manifest.name!r} has a config that this version cannot read: {error}") from error


def check_matches(manifest: Manifest, config: Config) -> None:
    """Raises DatasetError naming each difference unless samples of `manifest` fit the model of `config`."""

    def relevant(config: Config) -> dict[str, object]:
        specs = field_specs(config)
        found: dict[str, object] = {f"clip.{name}": value for name, value in vars(config.clip).items()}
        found |= {f"mel.{name}": value for name, value in vars(config.mel).items()}
        found |= {name: specs[name] for name in ENCODED_FIELDS if name in manifest.fields}
        for name, vae in vars(config.model.vae).items():
            if f"{name}_latent_mean" in manifest.fields:
                found[f"model.vae.{name}.scaling_factor"] = vae.scaling_factor
        return found | {"clip.hop_seconds": None}

    made = relevant(manifest_config(manifest)).items()
    pairs = [(name, old, new) for (name, old), new in zip(made, relevant(config).values(), strict=True)]
    differences = [f"{name} is {old} in the dataset, {new} in the config" for name, old, new in pairs if old != new]
    if differences:
        raise DatasetError(
            f"dataset {manifest.name!r} does not fit config {config.name!r}: {'; '.join(differences)}; "
            "use the dataset's config or preprocess again with this one"
        )
