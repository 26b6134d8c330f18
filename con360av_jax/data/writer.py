"""Writing of datasets shard by shard: finished shards survive any stop, and recordings can be added later.

FOLDER.partial/begun.json                 settings that the samples are made with
               samples-00000.arrayrecord  a shard
               samples-00000.json         its description, written last: a shard without it is not finished
               scratch/                   for the maker of the samples; removed when the dataset is finished

At the end the partial folder is renamed to the dataset's name. If the dataset exists already, the shards move
into it and a new manifest lists them.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordWriter

from con360av_jax.config.files import to_dict, unstructure
from con360av_jax.config.settings import Config
from con360av_jax.data.schema import (
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
    Sample,
    SampleEntry,
    describe,
    to_bytes,
    validate,
)
from con360av_jax.data.source import INDEX, MANIFEST, REJECTED, file_entry
from con360av_jax.data.writer_state import SETTINGS_FILE, Line, Shard, open_partial, read_finished, read_shards
from con360av_jax.errors import DatasetError
from con360av_jax.runtime.files import remove_leftovers, write_lines, write_text
from con360av_jax.runtime.provenance import package_version

# One record per group: a random read touches only its record. Compression would save a tenth of a record of latents and
# make reading four times as slow.
WRITER_OPTIONS = "group_size:1,uncompressed"
SHARD_RECORDS = 256
TOOLS = ("con360av-jax", "array-record", "safetensors", "numpy")

logger = logging.getLogger(__name__)


class DatasetWriter:
    """Writes a new dataset, continues a partial one, or adds samples to a finished one.

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
        """Opens `folder` for writing.

        Args:
            folder: the dataset; new, partial or finished.
            config: settings that the samples are made with.
            fields: names of the arrays of every sample.
            settings: further settings that the samples are made with, kept in the manifest.
            shard_records: records per shard.
            on_shard: called with the recordings that ended in a shard, when the shard is on disk.

        Raises:
            DatasetError: `folder` is neither empty nor a dataset, or was made with other settings.
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
            self._rename()  # the last step of a writer that was stopped there
        self._before, self._entries_before, self._rejected_before = read_finished(self.folder, self._made)
        open_partial(self.partial, self._made | {"shard_records": shard_records})
        self._shards = read_shards(self.partial, self.folder, self._before.shards if self._before else ())
        self._on_disk = {entry.key for entry in (*self._entries_before, *self._entries_done())}
        self._added: set[str] = set()
        self._writer: ArrayRecordWriter | None = None
        self._entries: list[SampleEntry] = []
        self._ended: list[str] = []
        self._rejected: list[Line] = []

    @property
    def finished(self) -> frozenset[str]:
        """Recordings whose samples are all on disk: they need not be added again."""
        return frozenset(entry.clip for entry in self._entries_before).union(*(shard.ended for shard in self._shards))

    def add(self, sample: Sample) -> None:
        """Writes one sample, unless it is in a finished shard already.

        Raises DatasetError if the sample does not have exactly the dataset's fields, or if its key was added before.
        """
        validate(sample, self._config, self._fields)
        if sample.key in self._added:
            raise DatasetError(f"two samples are called {sample.key}: give every recording its own name")
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
        """Marks the recording `name` as complete; `rejected` are its ledger lines."""
        self._ended.append(name)
        self._rejected += map(dict, rejected)

    def close(self) -> None:
        """Stops without finishing: finished shards stay for the next writer, the current one is lost."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def clips_before(self) -> frozenset[str]:
        """Recordings that the finished dataset held before this writer."""
        return frozenset(entry.clip for entry in self._entries_before)

    def finish(
        self,
        rejected: Iterable[Mapping[str, object]] = (),
        outdated: Callable[[Mapping[str, object]], bool] = lambda line: False,
    ) -> Manifest:
        """Finishes the dataset under its name and returns its manifest.

        `rejected` are further ledger lines; earlier lines for which `outdated` is true are dropped.

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
        """Writes index, ledger and, last, the manifest, which makes them valid."""
        shards = (*(self._before.shards if self._before else ()), *(shard.file for shard in self._shards))
        # A new name: the index that the old manifest names must stay as it is until the new manifest is written.
        index = target / (INDEX if self._before is None else f"index-{len(entries)}.jsonl")
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=self.folder.name,
            config=self._made["config"],
            fields=self._fields,
            samples=len(entries),
            clips=len({entry.clip for entry in entries}),
            rejected=len(lines),
            index=_write_lines(index, map(describe, entries)),
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
        """Renames the partial folder, which has a manifest and so is complete, to the dataset's name."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        remove_leftovers(self.partial)
        for file in (self.partial / SETTINGS_FILE, *self.partial.glob("samples-*.json")):
            file.unlink(missing_ok=True)
        os.replace(self.partial, self.folder)

    def _tidy(self, manifest: Manifest) -> None:
        """Removes files that no manifest names any more, also those of a writer that was stopped here."""
        for path in self.folder.glob("index*.jsonl"):
            if path.name != manifest.index.file:
                path.unlink()
        remove_leftovers(self.folder)
        shutil.rmtree(self.partial)

    def _shard_name(self) -> str:
        number = len(self._shards) + (len(self._before.shards) if self._before else 0)
        return f"samples-{number:05d}.arrayrecord"

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
        write_text(
            (self.partial / name).with_suffix(".json"), json.dumps(unstructure(shard), ensure_ascii=False) + "\n"
        )
        self._shards.append(shard)
        self._entries, self._ended, self._rejected = [], [], []
        self._on_shard(shard.ended)


def write_dataset(
    folder: str | Path,
    samples: Iterable[Sample],
    config: Config,
    fields: Sequence[str],
    rejected: Sequence[Mapping[str, object]],
    settings: Mapping[str, object],
    shard_records: int = SHARD_RECORDS,
) -> Manifest:
    """Writes `samples` to the new dataset `folder`, completely or not at all, and returns its manifest.

    Equal arguments give equal bytes. `rejected` is read after the last sample, so the caller may append to it
    while it yields samples.

    Raises:
        DatasetError: `folder` is not empty, there is no sample, two samples have the same key, or one does not
            have exactly `fields`.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder} exists and is not empty: give another folder or delete it")
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists():
        logger.warning("%s is left over from a run that was stopped; starting it again", partial)
        shutil.rmtree(partial)
    try:
        with closing(DatasetWriter(folder, config, fields, settings, shard_records)) as writer:
            for sample in samples:
                writer.add(sample)
            return writer.finish(rejected)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _distinct(lines: Iterable[Line]) -> list[Line]:
    """Returns `lines` in order without repetitions: what was rejected before is rejected again."""
    return [json.loads(text) for text in dict.fromkeys(json.dumps(line, ensure_ascii=False) for line in lines)]


def _write_lines(path: Path, lines: Iterable[Mapping[str, object]]) -> FileEntry:
    return file_entry(path, write_lines(path, lines))
