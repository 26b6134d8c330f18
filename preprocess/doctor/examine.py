"""Examination of datasets by all checks, one record in memory at a time; no fault hides another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from con360av_jax.config.files import changes
from con360av_jax.config.settings import Config
from con360av_jax.data.schema import Manifest, Sample, SampleEntry, manifest_config
from con360av_jax.data.source import PREVIEWS, preview_name
from con360av_jax.errors import DatasetError
from preprocess.doctor.across import Contents, DatasetSeen, Owner, content_hashes, shared_videos
from preprocess.doctor.content import CONTENT, intact_fields
from preprocess.doctor.edges import edge_fault
from preprocess.doctor.files import check_counts, check_file, read_index, read_ledger, read_manifest, read_records
from preprocess.doctor.findings import Findings
from preprocess.doctor.sheet import Row, make_row
from preprocess.doctor.statistics import Reason, Statistics, distinct_hours, grouped


@dataclass
class Examined:
    """Result of the examination of one dataset."""

    folder: Path
    name: str
    manifest: Manifest | None
    """None if it is corrupt: then nothing else was checked."""
    seen: DatasetSeen
    statistics: Statistics = field(default_factory=Statistics)
    reasons: list[Reason] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    hours: float = 0.0
    """Duration of the video, hours; parts that segments share count once."""


@dataclass
class Examination:
    """Result of the examination of several datasets."""

    datasets: list[Examined]
    findings: Findings


def examine(folders: Sequence[Path], samples: int, advance: Callable[[str, int, int], None]) -> Examination:
    """Checks `folders` together.

    Args:
        folders: dataset folders.
        samples: number of samples per dataset on the contact sheet.
        advance: called after each record with the dataset's name, its checked records and all its records.

    Raises:
        DatasetError: a folder is missing, is no dataset, or is given twice.
    """
    places = [folder.resolve() for folder in folders]
    if len(set(places)) < len(places):
        raise DatasetError(f"a dataset is given twice among {', '.join(map(str, folders))}: give each once")
    findings, contents = Findings(), Contents()
    names = _names(places)
    manifests = [read_manifest(folder, name, findings) for folder, name in zip(places, names, strict=True)]
    datasets: list[Examined] = []
    for folder, name, manifest in zip(places, names, manifests, strict=True):
        examined = Examined(folder=folder, name=name, manifest=manifest, seen=DatasetSeen(name))
        datasets.append(examined)
        if manifest is not None:
            _Examiner(examined, manifest, findings, contents, samples, advance).run()
    contents.report({examined.name: examined.statistics.records for examined in datasets}, findings)
    shared_videos([examined.seen for examined in datasets], findings)
    return Examination(datasets=datasets, findings=findings)


def _names(folders: Sequence[Path]) -> list[str]:
    """Names of the folders, or their paths if two have the same name."""
    short = [folder.name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


class _Examiner:
    """Runs the checks of one dataset."""

    def __init__(
        self,
        examined: Examined,
        manifest: Manifest,
        findings: Findings,
        contents: Contents,
        samples: int,
        advance: Callable[[str, int, int], None],
    ):
        self._examined, self._manifest, self._findings, self._contents = examined, manifest, findings, contents
        total = sum(shard.records for shard in manifest.shards)
        self._total, self._advance = total, advance
        self._drawn = set(np.linspace(0, total - 1, min(samples, total)).round().astype(int).tolist())
        self._config: Config | None = None

    def run(self) -> None:
        """Checks the files, then every record in order, then the records together."""
        examined, manifest, findings = self._examined, self._manifest, self._findings
        name = examined.name
        try:
            self._config = manifest_config(manifest)
        except DatasetError as error:
            findings.add("manifest", name, "manifest.json", str(error))
        check_counts(name, manifest, findings)
        ledger = read_ledger(examined.folder, name, manifest, findings)
        examined.reasons = grouped(ledger)
        index_there = check_file(examined.folder, name, manifest.index, findings)
        index = read_index(examined.folder, name, manifest, findings)
        position = 0
        for shard in manifest.shards:
            check_file(examined.folder, name, shard, findings)
            for place, sample in read_records(examined.folder, name, shard, findings):
                entry = next(index) if index_there else None
                if sample is not None:
                    self._record(sample, entry, position, f"{sample.key} ({place})")
                elif entry is not None:
                    examined.seen.add(entry, f"{entry.key} ({place})", None, findings)
                position += 1
                self._advance(name, position, self._total)
        examined.seen.finish(manifest, ledger, findings)
        if self._config is not None:
            examined.hours = distinct_hours(examined.seen.clips, self._config.clip.seconds)

    def _record(self, sample: Sample, entry: SampleEntry | None, position: int, where: str) -> None:
        examined, findings, name = self._examined, self._findings, self._examined.name
        examined.statistics.records += 1
        if entry is not None and entry != sample.entry:
            findings.add("index", name, where, "; ".join(changes(vars(entry), vars(sample.entry)).values()))
        arrays, failed = self._check_arrays(sample, where)
        track = arrays.get("viewpoint")
        first = examined.seen.add(sample.entry, where, track, findings)
        if first:
            examined.statistics.add_segment(sample.caption, arrays.get("sound"))
            self._check_edges(sample.entry, where)
        if track is not None:
            examined.statistics.add_viewpoint(track)
        still = bool(failed & {"black picture", "frozen picture"})
        self._contents.add(Owner(name, sample.clip), content_hashes(arrays, "silent sound" in failed, still))
        if position in self._drawn and self._config is not None:
            examined.rows.append(make_row(sample.entry, arrays, self._config, examined.folder, sorted(failed)))

    def _check_edges(self, entry: SampleEntry, where: str) -> None:
        panorama = self._examined.folder / PREVIEWS / preview_name(entry.clip, entry.segment)
        if panorama.is_file():
            self._findings.looked("joined edges")
            if fault := edge_fault(panorama):
                self._findings.add("joined edges", self._examined.name, where, fault)

    def _check_arrays(self, sample: Sample, where: str) -> tuple[dict[str, np.ndarray], set[str]]:
        """Intact arrays of a sample, and the checks that found something in it."""
        failed: set[str] = set()

        def found(check: str, what: str) -> None:
            failed.add(check)
            self._findings.add(check, self._examined.name, where, what)

        if self._config is None:
            return {}, failed
        fields = self._manifest.fields
        self._findings.looked("schema", len(fields))
        self._findings.looked("finite numbers", len(fields))
        self._findings.looked("saliency range", int("saliency" in fields))
        arrays = intact_fields(sample, self._config, fields, found)
        for name, check in CONTENT.items():
            if arrays.keys() & set(check.needs):
                self._findings.looked(name)
                if faults := list(check.find(arrays, self._config)):
                    found(name, "; ".join(faults))
        if "viewpoint angles" in failed:
            del arrays["viewpoint"]
        return arrays, failed
