"""Writing datasets shard by shard: what is on disk stays there whatever happens, and clips can be added later.

FOLDER.partial/begun.json                 what the samples are made with
               samples-00000.arrayrecord  a shard
               samples-00000.json         what it holds; written after it: a shard without it is not finished
               scratch/                   of whoever makes the samples; gone when the dataset is whole

At the end the partial folder takes the dataset's name, or, where the dataset is there already, its shards move into it
and a new manifest names them.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordWriter
from cattrs.errors import BaseValidationError

from con360av_jax.config.files import structure, to_dict, unstructure
from con360av_jax.config.settings import Config
from con360av_jax.data.schema import SCHEMA_VERSION, FileEntry, Manifest, Sample, SampleEntry, to_bytes, validate
from con360av_jax.data.source import INDEX, MANIFEST, REJECTED, file_entry
from con360av_jax.data.writer_state import BEGUN, Line, begin, existing
from con360av_jax.errors import DatasetError
from con360av_jax.runtime.files import remove_leftovers, write_text
from con360av_jax.runtime.provenance import package_version

# One record per group: a random read reads nothing but the record it wants. Compression would save a tenth of a record
# of latents and take four times as long to read.
WRITER_OPTIONS = "group_size:1,uncompressed"
SHARD_RECORDS = 256
TOOLS = ("con360av-jax", "array-record", "safetensors", "numpy")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A finished shard and what was known when it was finished."""

    file: FileEntry
    samples: tuple[SampleEntry, ...]
    ended: tuple[str, ...]
    """Clips that ended while it was written: all of their samples are in it or in shards before it."""
    rejected: tuple[Line, ...]
    """What was left out of these clips."""


class DatasetWriter:
    """Adds samples to a new dataset, to one whose writing was stopped, or to a whole one.

    Equal samples in equal order give equal bytes, whether or not the writing was stopped in between.
    """

    def __init__(
        self,
        folder: str | Path,
        config: Config,
        fields: Sequence[str],
        settings: Mapping[str, object],
        shard_records: int = SHARD_RECORDS,
        on_shard: Callable[[tuple[str, ...]], None] = lambda ended: None,
    ):
        """`settings`: what the samples are made with beyond the config; `on_shard` is told which clips ended with a
        shard when it is safe on disk.

        Raises DatasetError if `folder` is neither empty nor a dataset, or if what is there was made otherwise.
        """
        if shard_records < 1:
            raise DatasetError(f"a shard needs at least one record, but shard_records={shard_records}")
        self.folder = Path(folder)
        self.partial = self.folder.with_name(f"{self.folder.name}.partial")
        self.scratch = self.partial / "scratch"
        self._config, self._fields, self._shard_records = config, tuple(fields), shard_records
        self._on_shard = on_shard
        self._made = json.loads(
            json.dumps({"config": to_dict(config), "fields": list(fields), "settings": dict(settings)})
        )
        if (self.partial / MANIFEST).is_file() and not self.folder.exists():
            self._rename()  # all that a run had left to do when it was stopped
        self._before, self._entries_before, self._rejected_before = existing(self.folder, self._made)
        begin(self.partial, self._made | {"shard_records": shard_records})
        self._shards = self._finished_shards()
        self._on_disk = {entry.key for entry in (*self._entries_before, *self._entries_done())}
        self._added: set[str] = set()
        self._writer: ArrayRecordWriter | None = None
        self._entries: list[SampleEntry] = []
        self._ended: list[str] = []
        self._rejected: list[Line] = []

    @property
    def finished(self) -> frozenset[str]:
        """Clips that need not be added again: all of their samples are on disk."""
        return frozenset(entry.clip for entry in self._entries_before).union(*(shard.ended for shard in self._shards))

    def add(self, sample: Sample) -> None:
        """Writes one sample; one that is on disk already, in a finished shard, is passed over.

        Raises DatasetError if it does not hold exactly the dataset's fields, or if two samples have the same key.
        """
        validate(sample, self._config, self._fields)
        if sample.key in self._added:
            raise DatasetError(f"two samples are called {sample.key}: give every clip its own name")
        self._added.add(sample.key)
        if sample.key in self._on_disk:
            return
        writer = self._writer or ArrayRecordWriter(str(self.partial / self._shard_name()), WRITER_OPTIONS)
        self._writer = writer
        writer.write(to_bytes(sample))
        self._entries.append(sample.entry)
        if len(self._entries) == self._shard_records:
            self._finish_shard()

    def end_clip(self, name: str, rejected: Iterable[Mapping[str, object]] = ()) -> None:
        """Says that all samples of this clip were added, and what was left out of it."""
        self._ended.append(name)
        self._rejected += map(dict, rejected)

    def close(self) -> None:
        """Stops without finishing: whole shards stay for another writer, the one at hand is lost."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def clips_before(self) -> frozenset[str]:
        """Clips of the dataset that samples are added to."""
        return frozenset(entry.clip for entry in self._entries_before)

    def finish(
        self,
        rejected: Iterable[Mapping[str, object]] = (),
        outdated: Callable[[Mapping[str, object]], bool] = lambda line: False,
    ) -> Manifest:
        """Makes the dataset whole under its name; `rejected` lists what else was left out.

        Lines of the ledger that was there before are dropped where `outdated` says so.

        Raises DatasetError if there is no sample at all.
        """
        self._rejected += map(dict, rejected)
        if self._entries:
            self._finish_shard()
        entries = (*self._entries_before, *self._entries_done())
        kept = [line for line in self._rejected_before if not outdated(line)]
        lines = _distinct((*kept, *(line for shard in self._shards for line in shard.rejected), *self._rejected))
        if not entries:
            first = f", the first because: {lines[0].get('reason', lines[0])}" if lines else ""
            raise DatasetError(f"no sample to write to {self.folder}; {len(lines)} were rejected{first}")
        if self._before is not None and not self._shards and lines == self._rejected_before:
            self._tidy(self._before)
            return self._before
        target = self.partial if self._before is None else self.folder
        for shard in self._shards:
            if target != self.partial and (self.partial / shard.file.file).exists():
                os.replace(self.partial / shard.file.file, target / shard.file.file)
        return self._publish(target, entries, lines)

    def _publish(self, target: Path, entries: Sequence[SampleEntry], lines: Sequence[Line]) -> Manifest:
        """Index, ledger and, last, the manifest that makes all of it count."""
        shards = (*(self._before.shards if self._before else ()), *(shard.file for shard in self._shards))
        # A new name, so that the manifest that still counts keeps its own index.
        index = target / (INDEX if self._before is None else f"index-{len(entries)}.jsonl")
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=self.folder.name,
            config=self._made["config"],
            fields=self._fields,
            samples=len(entries),
            clips=len({entry.clip for entry in entries}),
            rejected=len(lines),
            index=_write_lines(index, map(unstructure, entries)),
            shards=shards,
            tools={tool: package_version(tool) for tool in TOOLS},
            settings=self._made["settings"],
        )
        _write_lines(target / REJECTED, lines)
        write_text(target / MANIFEST, manifest.to_json())
        if self._before is None:
            self._rename()
        else:
            self._tidy(manifest)
        return manifest

    def _rename(self) -> None:
        """Gives a partial folder with a manifest, which is whole, the dataset's name."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        remove_leftovers(self.partial)
        for file in (self.partial / BEGUN, *self.partial.glob("samples-*.json")):
            file.unlink(missing_ok=True)
        os.replace(self.partial, self.folder)

    def _tidy(self, manifest: Manifest) -> None:
        """Removes what no manifest names any more, also from a run that was stopped while it did so."""
        for path in self.folder.glob("index*.jsonl"):
            if path.name != manifest.index.file:
                path.unlink()
        remove_leftovers(self.folder)
        shutil.rmtree(self.partial)

    def _shard_name(self) -> str:
        number = len(self._shards) + (len(self._before.shards) if self._before else 0)
        return f"samples-{number:05d}.arrayrecord"

    def _described(self, shard: Shard) -> Path:
        return (self.partial / shard.file.file).with_suffix(".json")

    def _entries_done(self) -> tuple[SampleEntry, ...]:
        return tuple(entry for shard in self._shards for entry in shard.samples)

    def _finish_shard(self) -> None:
        name, records = self._shard_name(), len(self._entries)
        self.close()
        shard = Shard(
            file=file_entry(self.partial / name, records),
            samples=tuple(self._entries),
            ended=tuple(self._ended),
            rejected=tuple(self._rejected),
        )
        write_text(self._described(shard), json.dumps(unstructure(shard), ensure_ascii=False) + "\n")
        self._shards.append(shard)
        self._entries, self._ended, self._rejected = [], [], []
        self._on_shard(shard.ended)

    def _finished_shards(self) -> list[Shard]:
        shards: list[Shard] = []
        # A run that was stopped at its very end may have left the descriptions of shards that the dataset has by now.
        counted = {file.file for file in self._before.shards} if self._before else set[str]()
        for path in sorted(self.partial.glob("samples-*.json")):
            try:
                shard = structure(json.loads(path.read_text(encoding="utf-8")), Shard)
            except (OSError, ValueError, BaseValidationError) as error:
                raise DatasetError(f"{path} is corrupt ({type(error).__name__}): delete {self.partial}") from error
            if shard.file.file in counted:
                path.unlink()
                continue
            places = (self.partial / shard.file.file, self.folder / shard.file.file)
            if not any(place.is_file() and place.stat().st_size == shard.file.bytes for place in places):
                raise DatasetError(f"{places[0]} is missing or cut off: delete {self.partial} and start again")
            shards.append(shard)
        described = {shard.file.file for shard in shards}
        for path in self.partial.glob("*.arrayrecord"):
            if path.name not in described:
                path.unlink()
        return shards


def write_dataset(
    folder: str | Path,
    samples: Iterable[Sample],
    config: Config,
    fields: Sequence[str],
    rejected: Sequence[Mapping[str, object]],
    settings: Mapping[str, object],
    shard_records: int = SHARD_RECORDS,
) -> Manifest:
    """Writes `samples` to `folder`, whole or not at all, and returns its manifest; equal arguments give equal bytes.

    `rejected` is read after the last sample, so that the same run may still append to it. Raises DatasetError if
    `folder` is not empty, if there is no sample, if two have the same key or if one does not hold exactly `fields`.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder} exists and is not empty: give another folder or delete it")
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists():
        logger.warning("%s is left over from a run that was stopped; starting it again", partial)
        shutil.rmtree(partial)
    writer = None
    try:
        writer = DatasetWriter(folder, config, fields, settings, shard_records)
        for sample in samples:
            writer.add(sample)
        return writer.finish(rejected)
    finally:
        if writer is not None:
            writer.close()
        shutil.rmtree(partial, ignore_errors=True)


def _distinct(lines: Iterable[Line]) -> list[Line]:
    """`lines` without repetitions, in order: adding clips reads those again that were left out before."""
    return [json.loads(text) for text in dict.fromkeys(json.dumps(line, ensure_ascii=False) for line in lines)]


def _write_lines(path: Path, lines: Iterable[Mapping[str, object]]) -> FileEntry:
    texts = [json.dumps(line, ensure_ascii=False) for line in lines]
    write_text(path, "".join(f"{text}\n" for text in texts))
    return file_entry(path, len(texts))
