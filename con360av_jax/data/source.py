"""Reading of dataset folders, which data/writer.py writes: ArrayRecord shards with a manifest and an index."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, SupportsIndex

from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader
from cattrs.errors import BaseValidationError

from con360av_jax.config.files import problems, structure
from con360av_jax.data.schema import (
    FileEntry,
    Manifest,
    Sample,
    SampleEntry,
    from_bytes,
    manifest_config,
    validate,
)
from con360av_jax.errors import DatasetError
from con360av_jax.runtime.files import file_stem
from con360av_jax.runtime.provenance import file_sha256
from con360av_jax.runtime.text_files import split_lines

MANIFEST = "manifest.json"
INDEX = "index.jsonl"
REJECTED = "rejected.jsonl"
PREVIEWS = "previews"


def file_entry(path: Path, records: int) -> FileEntry:
    """Returns the manifest's entry for a file that is on disk."""
    return FileEntry(file=path.name, records=records, bytes=path.stat().st_size, sha256=file_sha256(path))


def preview_name(clip: str, segment: int) -> str:
    """Name of the panorama of a segment in the folder PREVIEWS of a dataset."""
    return f"{file_stem(clip)}_{segment}.jpg"


@dataclass
class _WholeShard:
    """Instruction to ArrayRecordDataSource to read all of one file (its FileInstruction protocol)."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class Dataset:
    """Dataset folder as a random-access source for Grain: `dataset[i]` reads record i, from any thread."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest
        self.config = manifest_config(manifest)
        self._records = ArrayRecordDataSource(
            [_WholeShard(str(folder / shard.file), 0, shard.records, shard.records) for shard in manifest.shards]
        )

    def __len__(self) -> int:
        return self.manifest.samples

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: SupportsIndex) -> Sample:
        """Reads record `position`; raises IndexError outside the dataset, DatasetError if the record is corrupt."""
        number = position.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)} in {self.folder}")
        try:
            sample = from_bytes(self._records[number])
            validate(sample, self.config, self.manifest.fields)
        except (RuntimeError, IndexError, DatasetError) as error:
            # ArrayRecord reports an unreadable chunk as one of the first two.
            raise DatasetError(f"{self.folder}: record {number} is corrupt: {error}") from error
        return sample

    def __repr__(self) -> str:
        # Grain shows its sources in logs.
        return f"Dataset({self.folder}, {len(self)} samples)"

    @cached_property
    def samples(self) -> tuple[SampleEntry, ...]:
        """All samples without their arrays, read from the index, in the order of the records."""
        path = self.folder / self.manifest.index.file
        try:
            lines = [json.loads(line) for line in split_lines(path.read_text(encoding="utf-8"))]
            return tuple(structure(line, SampleEntry) for line in lines)
        except (OSError, ValueError) as error:
            raise DatasetError(f"index {path} cannot be read: {error}") from error
        except BaseValidationError as error:
            raise DatasetError(f"index {path} is corrupt: {problems(error)}") from error

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of all samples, in the order of the records."""
        return tuple(entry.key for entry in self.samples)

    def positions(
        self, clip: str | None = None, segment: int | None = None, viewpoint: int | None = None, key: str | None = None
    ) -> tuple[int, ...]:
        """Returns the positions of all samples that match the given clip, segment, viewpoint index and key."""
        wanted = {"clip": clip, "segment": segment, "viewpoint_index": viewpoint, "key": key}
        given = {name: value for name, value in wanted.items() if value is not None}
        return tuple(
            position
            for position, entry in enumerate(self.samples)
            if all(getattr(entry, name) == value for name, value in given.items())
        )

    def find(
        self, clip: str | None = None, segment: int | None = None, viewpoint: int | None = None, key: str | None = None
    ) -> Sample:
        """Reads the first sample that matches the given clip, segment, viewpoint index and key.

        Raises DatasetError if none does.
        """
        positions = self.positions(clip, segment, viewpoint, key)
        if not positions:
            asked = {"clip": clip, "segment": segment, "viewpoint": viewpoint, "key": key}
            text = ", ".join(f"{name}={value}" for name, value in asked.items() if value is not None)
            raise DatasetError(
                f"{self.folder} has no sample with {text}; it holds {len(self)}, the first of them "
                f"{', '.join(self.keys[:5])}"
            )
        return self[positions[0]]


def open_dataset(folder: str | Path, verify: Literal["sizes", "hashes"] = "hashes") -> Dataset:
    """Opens a dataset folder after checking the size and, with "hashes", the SHA-256 of every file.

    Raises DatasetError if the folder or its manifest is missing, of another schema version or corrupt, or if a shard
    is missing, truncated, altered or holds another number of records than the manifest says.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"dataset folder {folder} does not exist: write it first, or check the path")
    path = folder / MANIFEST
    if not path.is_file():
        raise DatasetError(f"{folder} is not a dataset: it has no {MANIFEST}; write the dataset again")
    manifest = Manifest.from_json(path.read_bytes(), str(path))
    for entry in (manifest.index, *manifest.shards):
        _check_file(folder / entry.file, entry, verify)
    for shard in manifest.shards:
        _check_count(folder / shard.file, shard)
    total = sum(shard.records for shard in manifest.shards)
    if not total == manifest.samples == manifest.index.records:
        raise DatasetError(
            f"{path} counts {manifest.samples} samples, but its shards hold {total} and its index "
            f"{manifest.index.records}; write the dataset again"
        )
    return Dataset(folder, manifest)


def read_record(place: str) -> Sample:
    """The record that "DATASET#KEY" names, where folder and key may both hold "#"; the longest folder is tried first.

    Raises DatasetError if there is no such dataset or record, or if it is corrupt.
    """
    halves = [(place[:at], place[at + 1 :]) for at, letter in enumerate(place) if letter == "#"]
    there = [(folder, key) for folder, key in halves if (Path(folder) / MANIFEST).is_file()]
    for folder, key in reversed(there):
        dataset = open_dataset(folder, verify="sizes")
        if key in dataset.keys:
            return dataset[dataset.keys.index(key)]
    folder, key = (there or halves or [(place, "")])[0]
    dataset = open_dataset(folder, verify="sizes")
    known = ", ".join(dataset.keys[:3])
    raise DatasetError(f"{folder} has no record {key!r}; it holds {len(dataset)}, the first of them {known}")


def _check_file(path: Path, entry: FileEntry, verify: Literal["sizes", "hashes"]) -> None:
    if not path.is_file():
        raise DatasetError(f"{path} is missing; copy or write the dataset again")
    size = path.stat().st_size
    if size != entry.bytes:
        kind = "truncated" if size < entry.bytes else "altered"
        raise DatasetError(f"{path} is {kind}: it has {size} bytes, the manifest says {entry.bytes}; copy it again")
    if verify == "hashes":
        digest = file_sha256(path)
        if digest != entry.sha256:
            raise DatasetError(
                f"{path} is altered: its sha256 is {digest[:12]}, the manifest says {entry.sha256[:12]}; copy it again"
            )


def _check_count(path: Path, entry: FileEntry) -> None:
    try:
        reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
        records = reader.num_records()
        reader.close()  # a corrupt footer is only reported here
    except RuntimeError as error:
        raise DatasetError(f"{path} is not an ArrayRecord file: {error}; copy it again") from error
    if records != entry.records:
        raise DatasetError(
            f"{path} holds {records} records, the manifest says {entry.records}; write the dataset again"
        )
