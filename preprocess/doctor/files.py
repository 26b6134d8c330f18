"""Reading of a dataset's manifest, index, ledger and shards, in which corruption of one does not hide the others."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader
from cattrs.errors import BaseValidationError

from con360av_jax.config.files import problems, structure
from con360av_jax.data.schema import FileEntry, Manifest, Sample, SampleEntry, from_bytes
from con360av_jax.data.source import MANIFEST, REJECTED
from con360av_jax.errors import DatasetError
from preprocess.doctor.findings import Findings


def read_manifest(folder: Path, name: str, findings: Findings) -> Manifest | None:
    """The manifest, or None if it is corrupt; raises DatasetError if `folder` is no dataset."""
    if not folder.is_dir():
        raise DatasetError(f"dataset folder {folder} does not exist: write it first, or check the path")
    path = folder / MANIFEST
    if not path.is_file():
        raise DatasetError(f"{folder} is no dataset: it has no {MANIFEST}; check the path, or write the dataset again")
    findings.looked("manifest")
    try:
        return Manifest.from_json(path.read_bytes(), str(path))
    except DatasetError as error:
        findings.add("manifest", name, MANIFEST, str(error))
        return None


def check_counts(name: str, manifest: Manifest, findings: Findings) -> None:
    """Checks that manifest, shards and index count the same number of samples."""
    total = sum(shard.records for shard in manifest.shards)
    if not total == manifest.samples == manifest.index.records:
        what = f"it counts {manifest.samples} samples, its shards hold {total}, its index {manifest.index.records}"
        findings.add("manifest", name, MANIFEST, what)


def check_file(folder: Path, name: str, entry: FileEntry, findings: Findings) -> bool:
    """Checks size and sha256 of one file; returns whether the file exists."""
    findings.looked("files")
    path = folder / entry.file
    if not path.is_file():
        findings.add("files", name, entry.file, "the file is missing")
        return False
    size = path.stat().st_size
    if size != entry.bytes:
        findings.add("files", name, entry.file, f"it has {size} bytes, the manifest says {entry.bytes}")
        return True
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != entry.sha256:
        what = f"its sha256 begins with {digest[:12]}, the manifest says {entry.sha256[:12]}"
        findings.add("files", name, entry.file, what)
    return True


def read_index(folder: Path, name: str, manifest: Manifest, findings: Findings) -> Iterator[SampleEntry | None]:
    """Entries of the index, endlessly: None for each line that is corrupt or missing."""
    path = folder / manifest.index.file
    number = 0
    if path.is_file():
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                findings.looked("index")
                try:
                    entry = structure(json.loads(line), SampleEntry)
                except (BaseValidationError, ValueError) as error:
                    entry = None
                    what = problems(error) if isinstance(error, BaseValidationError) else f"it is not JSON: {error}"
                    findings.add("index", name, f"{path.name} line {number}", what)
                yield entry
        if number < manifest.samples:
            what = f"it has {number} lines for {manifest.samples} samples"
            findings.add("index", name, path.name, what)
    while True:
        yield None


def read_records(folder: Path, name: str, shard: FileEntry, findings: Findings) -> Iterator[tuple[str, Sample | None]]:
    """The place of each record that the manifest counts for `shard`, in order, and its sample, or None if unreadable.

    A shard of which nothing can be read is one finding.
    """
    findings.looked("records", shard.records)
    path = folder / shard.file
    reader, there, fault = _open(path) if path.is_file() else (None, 0, "")
    if fault:
        findings.add("records", name, shard.file, f"none of its {shard.records} records can be read: {fault}")
    if there > shard.records:
        what = f"it holds {there} records, the manifest says {shard.records}"
        findings.add("records", name, shard.file, what)
    for number in range(shard.records):
        place, sample = f"number {number} of {shard.file}", None
        try:
            sample = from_bytes(reader.read([number])[0]) if reader is not None else None
        except (RuntimeError, IndexError, DatasetError) as error:
            findings.add("records", name, place, str(error))
        yield place, sample
    if reader is not None:
        reader.close()


def _open(path: Path) -> tuple[ArrayRecordReader | None, int, str]:
    """A reader of one shard, its number of records and its fault, which some shards report only when closed."""
    try:
        reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
        if records := reader.num_records():
            return reader, records, ""
        reader.close()
    except RuntimeError as error:
        return None, 0, str(error)
    return None, 0, "it is empty"


def read_ledger(folder: Path, name: str, manifest: Manifest, findings: Findings) -> list[dict[str, object]]:
    """Readable lines of rejected.jsonl."""
    findings.looked("ledger")
    path = folder / REJECTED
    if not path.is_file():
        findings.add("ledger", name, REJECTED, "the file is missing")
        return []
    lines: list[dict[str, object]] = []
    number = 0
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            try:
                line = json.loads(text)
            except ValueError as error:
                findings.add("ledger", name, f"{REJECTED} line {number}", f"it is not JSON: {error}")
                continue
            if isinstance(line, dict):
                lines.append(line)
            else:
                findings.add("ledger", name, f"{REJECTED} line {number}", "it is no JSON object")
    if number != manifest.rejected:
        what = f"it has {number} lines, the manifest says {manifest.rejected}"
        findings.add("ledger", name, REJECTED, what)
    return lines
