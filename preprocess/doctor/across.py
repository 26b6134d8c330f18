"""Checks across records: gaps, repetitions and leaks between splits; only hashes of arrays are kept."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from con360av_jax.data.schema import Manifest, SampleEntry
from preprocess.doctor.findings import Findings
from preprocess.inputs import source_of, split_of

SHOWN = 5


class Owner(NamedTuple):
    """The first clip with some content."""

    dataset: str
    clip: str


@dataclass
class SegmentSeen:
    """Start and viewpoints of one segment."""

    start: float
    viewpoints: set[int] = field(default_factory=set)
    tracks: dict[bytes, int] = field(default_factory=dict)
    """Viewpoint index by the hash of its track."""


@dataclass
class DatasetSeen:
    """Keys, clips and captions of one dataset."""

    name: str
    keys: set[bytes] = field(default_factory=set)
    clips: dict[str, dict[int, SegmentSeen]] = field(default_factory=dict)
    captions: set[bytes] = field(default_factory=set)
    empty_captions: int = 0

    @property
    def sources(self) -> set[str]:
        """Source videos of the clips."""
        return {source_video(clip) for clip in self.clips}

    def add(self, entry: SampleEntry, where: str, track: np.ndarray | None, findings: Findings) -> bool:
        """Records one sample; returns whether it is the first of its segment."""
        findings.looked("keys")
        findings.looked("captions")
        key = _digest(entry.key.encode())
        if key in self.keys:
            findings.add("keys", self.name, where, "another sample before it has the same key")
        self.keys.add(key)
        self.captions.add(_digest(entry.caption.strip().encode()))
        if not entry.caption.strip():
            findings.add("captions", self.name, where, "the caption is empty")
            self.empty_captions += 1
        segments = self.clips.setdefault(entry.clip, {})
        first = entry.segment not in segments
        seen = segments.setdefault(entry.segment, SegmentSeen(entry.start))
        if track is not None:
            other = seen.tracks.setdefault(_digest(track.tobytes()), entry.viewpoint_index)
            if other != entry.viewpoint_index:
                what = f"viewpoint {entry.viewpoint_index} is the same as viewpoint {other}"
                findings.add("equal viewpoints", self.name, where, what)
        seen.viewpoints.add(entry.viewpoint_index)
        return first

    def finish(self, manifest: Manifest, ledger: list[dict[str, object]], findings: Findings) -> None:
        """Runs the checks that need all records."""
        if len(self.clips) != manifest.clips:
            what = f"it counts {manifest.clips} clips, the records are of {len(self.clips)}"
            findings.add("manifest", self.name, "manifest.json", what)
        if len(self.keys) > 1 and len(self.captions) == 1 and len(self.clips) > 1 and not self.empty_captions:
            findings.add("captions", self.name, "all samples", "all samples have the same caption")
        # With a smallest peak, segments have as many as there are peaks.
        asked = None if manifest.settings.get("min_peak") else manifest.settings.get("viewpoints")
        excused = {(_stem(line.get("file")), str(line.get("segment"))) for line in ledger}
        for clip, segments in self.clips.items():
            self._check_viewpoints(clip, segments, asked if isinstance(asked, int) else None, findings)
            findings.looked("segments")
            stem = clip.partition("~")[0]
            gaps = (number for number in range(max(segments)) if number not in segments)
            if missing := _first(number for number in gaps if (stem, str(number)) not in excused):
                what = f"segment {missing} is missing, and the ledger does not say why"
                findings.add("segments", self.name, clip, what)
            self._check_split(clip, manifest.settings.get("split"), findings)

    def _check_viewpoints(
        self, clip: str, segments: Mapping[int, SegmentSeen], asked: int | None, findings: Findings
    ) -> None:
        for number, seen in segments.items():
            findings.looked("viewpoints")
            if len(seen.tracks) > 0:
                findings.looked("equal viewpoints")
            wanted = max(asked or 0, max(seen.viewpoints) + 1)
            if missing := _first(index for index in range(wanted) if index not in seen.viewpoints):
                what = f"viewpoint {missing} of {wanted} is missing"
                findings.add("viewpoints", self.name, f"{clip}, segment {number}", what)

    def _check_split(self, clip: str, split: object, findings: Findings) -> None:
        if split not in ("train", "validation"):
            return
        findings.looked("split")
        belongs = split_of(clip.partition("~")[0])
        if belongs != split:
            findings.add("split", self.name, clip, f"its source video belongs to {belongs}, the dataset is {split}")


class Contents:
    """Hashes of audio and video of all datasets, and the clips that share some of them."""

    def __init__(self) -> None:
        self._first: dict[bytes, Owner] = {}
        self._pairs: dict[tuple[Owner, Owner], Counter[str]] = {}

    def add(self, owner: Owner, contents: Iterator[tuple[str, bytes]]) -> None:
        """Records the hashes of one record, see `content_hashes`."""
        for kind, digest in contents:
            first = self._first.setdefault(digest, owner)
            if first != owner:
                self._pairs.setdefault((first, owner), Counter())[kind] += 1

    def report(self, records: Mapping[str, int], findings: Findings) -> None:
        """Adds a finding for each pair of clips with equal contents; `records` is the number of records by dataset."""
        findings.looked("duplicate clips", sum(records.values()))
        if len(records) > 1:
            findings.looked("shared content", sum(records.values()))
        for (one, other), kinds in self._pairs.items():
            equal = " and ".join(f"{kind} of {count} sample(s)" for kind, count in sorted(kinds.items()))
            if one.dataset == other.dataset:
                what = f"equal to clip {one.clip}: {equal}"
                findings.add("duplicate clips", other.dataset, other.clip, what)
            elif source_video(one.clip) != source_video(other.clip):
                what = f"equal to clip {one.clip} of {one.dataset}: {equal}"
                findings.add("shared content", other.dataset, other.clip, what)


def content_hashes(arrays: Mapping[str, np.ndarray], silent: bool, still: bool) -> Iterator[tuple[str, bytes]]:
    """Hashes, by kind, of what identifies a record's clip: not silent audio, and not still or black video."""
    sound = arrays.get("sound", arrays.get("mel"))
    if sound is not None and not silent:
        yield "audio", _digest(b"sound", sound)
    if "video" in arrays and not still:
        yield "video", _digest(b"picture", arrays["video"])
    # Only both together: one alone may encode silence or black frames, which cannot be told from latents.
    if {"video_latent_mean", "audio_latent_mean"} <= arrays.keys() and not silent and not still:
        yield "latents", _digest(b"latents", arrays["video_latent_mean"], arrays["audio_latent_mean"])


def shared_videos(seen: list[DatasetSeen], findings: Findings) -> None:
    """Adds a finding for each source video in two datasets: training and evaluation data must not share one."""
    if len(seen) < 2:
        return
    first: dict[str, str] = {}
    for dataset in seen:
        for source in sorted(dataset.sources):
            findings.looked("shared videos")
            owner = first.setdefault(source, dataset.name)
            if owner != dataset.name:
                findings.add("shared videos", dataset.name, source, f"clips of it are in {owner} as well")


def source_video(clip: str) -> str:
    """Source video of a clip "<video>_<start second>", without the "~2" that tells files of equal names apart."""
    return source_of(clip.partition("~")[0])


def _first(numbers: Iterable[int]) -> str:
    """The first few of possibly endless numbers, since a corrupt record can claim any number; as text."""
    found = [str(number) for number in islice(numbers, SHOWN + 1)]
    return ", ".join(found[:SHOWN]) + (" and more" if len(found) > SHOWN else "")


def _stem(file: object) -> str:
    return Path(file).stem if isinstance(file, str) else ""


def _digest(*parts: bytes | np.ndarray) -> bytes:
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else part)
    return digest.digest()
