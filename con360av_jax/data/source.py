"""Dataset folders: ArrayRecord shards with a manifest, written whole or not at all, read by position or by name."""

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Literal, SupportsIndex

from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from cattrs.errors import BaseValidationError

from con360av_jax.config import Config
from con360av_jax.config_io import problems, structure, to_dict, unstructure
from con360av_jax.data.schema import (
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
    Sample,
    SampleEntry,
    from_bytes,
    manifest_config,
    to_bytes,
    validate,
)
from con360av_jax.errors import DatasetError

MANIFEST = "manifest.json"
INDEX = "index.jsonl"
REJECTED = "rejected.jsonl"
# One record per group: a random read reads nothing but the record it wants. Compression would save a tenth of a record
# of latents and take four times as long to read.
WRITER_OPTIONS = "group_size:1,uncompressed"
TOOLS = ("con360av-jax", "array-record", "safetensors", "numpy")

logger = logging.getLogger(__name__)


def write_dataset(
    folder: str | Path,
    samples: Iterable[Sample],
    config: Config,
    fields: Sequence[str],
    rejected: Sequence[Mapping[str, object]],
    settings: Mapping[str, object],
    shard_records: int = 256,
) -> Manifest:
    """Writes `samples` to `folder` and returns its manifest; equal arguments give equal bytes.

    Everything is written to `<folder>.partial`, which takes the folder's name at the end. `rejected` is read after the
    last sample, so that the same run may still append to it. Raises DatasetError if `folder` is not empty, if there is
    no sample, if two have the same key or if one does not hold exactly `fields` (see `schema.validate`).
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder} exists and is not empty: give another folder or delete it")
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists():
        logger.warning("%s is left over from a run that was stopped; starting it again", partial)
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        checked = _Checked(samples, config, tuple(fields))
        shards = _write_shards(partial, checked, shard_records)
        if not shards:
            first = f", the first because: {rejected[0].get('reason', rejected[0])}" if rejected else ""
            raise DatasetError(f"no sample to write to {folder}; {len(rejected)} were rejected{first}")
        _write_lines(partial / REJECTED, (dict(line) for line in rejected))
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=folder.name,
            config=to_dict(config),
            fields=tuple(fields),
            samples=len(checked.entries),
            clips=len({entry.clip for entry in checked.entries.values()}),
            rejected=len(rejected),
            index=_write_lines(partial / INDEX, map(unstructure, checked.entries.values())),
            shards=shards,
            tools={tool: importlib.metadata.version(tool) for tool in TOOLS},
            settings=dict(settings),
        )
        (partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


class _Checked:
    """Passes valid samples on and remembers their entries, in order."""

    def __init__(self, samples: Iterable[Sample], config: Config, fields: tuple[str, ...]):
        self.samples, self.config, self.fields = samples, config, fields
        self.entries: dict[str, SampleEntry] = {}

    def __iter__(self) -> Iterator[Sample]:
        for sample in self.samples:
            validate(sample, self.config, self.fields)
            if sample.key in self.entries:
                raise DatasetError(f"two samples are called {sample.key}: give every clip its own name")
            self.entries[sample.key] = sample.entry
            yield sample


def _write_shards(folder: Path, samples: Iterable[Sample], shard_records: int) -> tuple[FileEntry, ...]:
    if shard_records < 1:
        raise DatasetError(f"a shard needs at least one record, but shard_records={shard_records}")
    shards: list[FileEntry] = []
    remaining = iter(samples)
    for first in remaining:
        path = folder / f"samples-{len(shards):05d}.arrayrecord"
        writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
        records = 0
        try:
            for sample in chain([first], islice(remaining, shard_records - 1)):
                writer.write(to_bytes(sample))
                records += 1
        finally:
            writer.close()
        shards.append(_file_entry(path, records))
    return tuple(shards)


def _write_lines(path: Path, lines: Iterable[Mapping[str, object]]) -> FileEntry:
    texts = [json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return _file_entry(path, len(texts))


def _file_entry(path: Path, records: int) -> FileEntry:
    return FileEntry(file=path.name, records=records, bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class _WholeShard:
    """What ArrayRecordDataSource asks for to read all of one file (its FileInstruction protocol)."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class Dataset:
    """A folder of samples: `dataset[i]` reads record i, from any thread; a random-access source for Grain."""

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
        """Record `position`; raises IndexError outside the dataset, DatasetError if the record is damaged."""
        number = position.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)} in {self.folder}")
        try:
            sample = from_bytes(self._records[number])
            validate(sample, self.config, self.manifest.fields)
        except (RuntimeError, IndexError, DatasetError) as error:
            # ArrayRecord reports an unreadable chunk as one of the first two.
            raise DatasetError(f"{self.folder}: record {number} is damaged: {error}") from error
        return sample

    def __repr__(self) -> str:
        # Grain shows its sources in logs.
        return f"Dataset({self.folder}, {len(self)} samples)"

    @cached_property
    def samples(self) -> tuple[SampleEntry, ...]:
        """Every sample without its arrays, in the order of the records; read from the index only."""
        path = self.folder / self.manifest.index.file
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return tuple(structure(line, SampleEntry) for line in lines)
        except (OSError, ValueError) as error:
            raise DatasetError(f"index {path} cannot be read: {error}") from error
        except BaseValidationError as error:
            raise DatasetError(f"index {path} is damaged: {problems(error)}") from error

    @property
    def keys(self) -> tuple[str, ...]:
        """The key of every sample, in the order of the records."""
        return tuple(entry.key for entry in self.samples)

    def positions(
        self, clip: str | None = None, segment: int | None = None, viewpoint: int | None = None, key: str | None = None
    ) -> tuple[int, ...]:
        """Positions of all samples of this clip, segment, viewpoint index and key; what is left out may be any."""
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
        """The first sample of this clip, segment, viewpoint index and key; what is left out may be any.

        Raises DatasetError if there is none.
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
    """Opens what `write_dataset` wrote, after checking every file's size and, with "hashes", its sha256.

    Raises DatasetError if the folder or its manifest is missing, of another schema version or damaged, or if a shard
    is missing, truncated, altered or holds another number of records than the manifest says.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"dataset folder {folder} does not exist: write it first, or check the path")
    path = folder / MANIFEST
    if not path.is_file():
        raise DatasetError(f"{folder} is no dataset: it has no {MANIFEST}; write the dataset again")
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


def _check_file(path: Path, entry: FileEntry, verify: Literal["sizes", "hashes"]) -> None:
    if not path.is_file():
        raise DatasetError(f"{path} is missing; copy or write the dataset again")
    size = path.stat().st_size
    if size != entry.bytes:
        kind = "truncated" if size < entry.bytes else "altered"
        raise DatasetError(f"{path} is {kind}: it has {size} bytes, the manifest says {entry.bytes}; copy it again")
    if verify == "hashes":
        digest = _sha256(path)
        if digest != entry.sha256:
            raise DatasetError(
                f"{path} is altered: its sha256 is {digest[:12]}, the manifest says {entry.sha256[:12]}; copy it again"
            )


def _check_count(path: Path, entry: FileEntry) -> None:
    try:
        reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
        records = reader.num_records()
        reader.close()  # a damaged footer is only reported here
    except RuntimeError as error:
        raise DatasetError(f"{path} is no ArrayRecord file: {error}; copy it again") from error
    if records != entry.records:
        raise DatasetError(
            f"{path} holds {records} records, the manifest says {entry.records}; write the dataset again"
        )
