"""One part of an extraction on disk: rows are stored as they come, so that a stopped run loses at most one clip.

FEATURES/PART/             a features folder (con360av_jax/evaluate/features.py)
              origin.json  the side and the content of each file that it was made from
         PART.begun/       until it is complete: card.json, rows.bin and clips.jsonl, one line per clip in rows.bin
         PART.new/         the finished folder, before it replaces PART
"""

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, TextIO, TypeVar

import numpy as np
from cattrs.errors import BaseValidationError

from con360av_jax.config.files import structure, unstructure
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.features import (
    FeatureCard,
    FeatureSet,
    Rows,
    card_differences,
    open_features,
    write_features,
)
from con360av_jax.runtime.files import remove_leftovers, write_text
from preprocess.features.material import Line, Source

ORIGIN, CARD, ROWS, CLIPS = "origin.json", "card.json", "rows.bin", "clips.jsonl"
_VALUE = np.dtype("<f4")
T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Rows of one file, or why it has none."""

    file: str
    digest: str
    """SHA-256 of the file."""
    reason: str = ""
    """Why the file was rejected; empty if it has rows."""
    first: int = 0
    """Offset of its first value in rows.bin, bytes; or, if `whole`, index of its first row in the finished folder."""
    shape: tuple[int, ...] = ()
    whole: bool = False
    """Whether its rows are in the finished folder."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A file that was processed."""

    file: str
    digest: str
    reason: str
    """Why the file itself was rejected; empty if it was usable or was rejected because of other files."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Sources of the rows of a finished folder."""

    side: str
    """"target" or "generated" if rows depend on the side, else empty."""
    files: dict[str, Made]
    """Processed files by clip name, including rejected ones."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """Settings of the rows of an unfinished folder."""

    card: FeatureCard
    side: str


class PartStore:
    """Rows of one part, including those of earlier runs whose files and settings have not changed."""

    def __init__(self, folder: Path, card: FeatureCard, side: str):
        """Opens the finished or unfinished folder FEATURES/PART, if there is one.

        Raises MetricError if it was made with other weights or settings, or by another program.
        """
        self.folder, self._card, self._side = folder, card, side
        self._begun, self._new = (folder.with_name(f"{folder.name}.{kind}") for kind in ("begun", "new"))
        self._entries: dict[str, Entry] = {}
        self._taken: dict[str, Entry] = {}
        self._files: tuple[BinaryIO, TextIO] | None = None
        if not folder.exists() and (self._new / ORIGIN).is_file():
            os.replace(self._new, folder)  # all that a run had left to do when it was stopped
        shutil.rmtree(self._new, ignore_errors=True)
        remove_leftovers(self._new.parent, self._new.name)
        self._finished = self._open_finished()
        self._open_begun()

    def holds(self, source: Source, digest: str) -> bool:
        """Whether this file's rows, or the reason why it has none, are stored."""
        entry = self._entries.get(source.clip)
        return bool(digest) and entry is not None and (entry.file, entry.digest) == (source.file, digest)

    def take(self, source: Source) -> bool:
        """Includes a stored file in the folder; returns whether it has rows."""
        self._taken[source.clip] = self._entries[source.clip]
        return not self._taken[source.clip].reason

    def add(self, source: Source, digest: str, found: Rows | str) -> None:
        """Stores a clip's rows, or the reason why it has none."""
        rows, lines = self._files or self._start()
        first = rows.seek(0, os.SEEK_END)
        if isinstance(found, str):
            entry = Entry(file=source.file, digest=digest, reason=found)
        elif not found.size or found.dtype != np.float32 or not np.isfinite(found).all():
            reason = "its features are not all finite: look at what made them" if found.size else "is too short: no row"
            entry = Entry(file=source.file, digest=digest, reason=reason)
        else:
            rows.write(np.ascontiguousarray(found, _VALUE).tobytes())
            rows.flush()
            entry = Entry(file=source.file, digest=digest, first=first, shape=found.shape)
        # Written after the rows, because a line means that its rows are stored.
        lines.write(json.dumps({"clip": source.clip} | unstructure(entry), ensure_ascii=False) + "\n")
        lines.flush()
        self._entries[source.clip] = entry

    def finish(
        self, sources: Sequence[Source], rejected: Iterable[Line], most: int
    ) -> tuple[FeatureSet | None, tuple[Line, ...]]:
        """Writes the folder, unless the existing one is the same; returns its features, if any, and rejected files.

        Clips whose rows have another shape than most clips' are rejected, as are those after the first `most` usable
        ones (0 keeps all).
        """
        self.close()
        known = {source: self._taken[source.clip] for source in sources if source.clip in self._taken}
        usable = [source for source, entry in known.items() if not entry.reason]
        usable = usable[: most or len(usable)]
        shapes = Counter(known[source].shape[1:] for source in usable)
        usual = shapes.most_common(1)[0][0] if shapes else ()
        kept = [source for source in usable if known[source].shape[1:] == usual]
        lines = [*rejected]
        for source in set(sources) - set(kept):
            reason = _reason(known.get(source), usual, most)
            lines.append({"clip": source.clip, "file": source.file, "reason": reason})
        lines.sort(key=lambda line: (str(line["clip"]), str(line["file"])))
        made = {
            source.clip: Made(file=entry.file, digest=entry.digest, reason=entry.reason)
            for source, entry in known.items()
            if entry.digest
        }
        if kept:
            self._write(kept, lines, Origin(side=self._side, files=made))
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self._begun, ignore_errors=True)
        return open_features(self.folder) if kept else None, tuple(lines)

    def _write(self, kept: Sequence[Source], lines: Sequence[Line], origin: Origin) -> None:
        same = self._finished is not None and [*self._finished.rejected] == lines
        if same and origin == _read_json(self.folder / ORIGIN, Origin):
            return
        write_features(self._new, self._card, self._clips(kept), lines)
        write_text(self._new / ORIGIN, json.dumps(unstructure(origin), indent=1, ensure_ascii=False) + "\n")
        self._finished = None  # maps a file that is removed next
        shutil.rmtree(self.folder, ignore_errors=True)
        os.replace(self._new, self.folder)

    def close(self) -> None:
        """Closes files; an unfinished folder stays."""
        for file in self._files or ():
            file.close()
        self._files = None

    def _clips(self, sources: Iterable[Source]) -> Iterator[tuple[str, str, Rows]]:
        for source in sources:
            entry = self._taken[source.clip]
            if entry.whole and self._finished:
                yield source.clip, source.file, self._finished.values[entry.first : entry.first + entry.shape[0]]
                continue
            with (self._begun / ROWS).open("rb") as file:
                file.seek(entry.first)
                content = file.read(prod(entry.shape) * _VALUE.itemsize)
            yield source.clip, source.file, np.frombuffer(content, _VALUE).reshape(entry.shape)

    def _open_finished(self) -> FeatureSet | None:
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return None
        if not (self.folder / ORIGIN).is_file():
            raise MetricError(f"{self.folder} was not made by this program: give another --out or delete it")
        finished, origin = open_features(self.folder), _read_json(self.folder / ORIGIN, Origin)
        if not self._agrees(self.folder, finished.card, origin.side):
            return None
        there = {clip.clip: clip for clip in finished.clips}
        for clip, made in origin.files.items():
            if clip in there:
                shape = (there[clip].rows, *finished.values.shape[1:])
                self._entries[clip] = Entry(
                    file=made.file, digest=made.digest, first=there[clip].first, shape=shape, whole=True
                )
            elif made.reason:
                self._entries[clip] = Entry(file=made.file, digest=made.digest, reason=made.reason)
        return finished

    def _agrees(self, place: Path, card: FeatureCard, side: str) -> bool:
        """Whether a folder was made with the same package versions; raises MetricError for other settings."""
        found = card_differences(card, self._card)
        found += [f"side: {side} and {self._side}"] if side != self._side else []
        if found:
            raise MetricError(
                f"{place} was extracted otherwise ({'; '.join(found)}): do as then, give another --out or delete it"
            )
        if card.packages != self._card.packages:
            logger.warning("%s was extracted with other package versions; extracting it again", place)
        return card.packages == self._card.packages

    def _open_begun(self) -> None:
        """Reads the unfinished folder of a stopped run, without an incomplete last line or row."""
        if not (self._begun / CARD).is_file():
            shutil.rmtree(self._begun, ignore_errors=True)
            return
        begun = _read_json(self._begun / CARD, Begun)
        if not self._agrees(self._begun, begun.card, begun.side):
            shutil.rmtree(self._begun)
            return
        size, kept = (self._begun / ROWS).stat().st_size, 0
        lines = (self._begun / CLIPS).read_bytes()
        for line in lines.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            told: dict[str, object] = json.loads(line)
            clip, entry = str(told.pop("clip")), structure(told, Entry)
            if entry.first + prod(entry.shape) * _VALUE.itemsize * bool(entry.shape) > size:
                break
            self._entries[clip] = entry
            kept += len(line)
        os.truncate(self._begun / CLIPS, kept)

    def _start(self) -> tuple[BinaryIO, TextIO]:
        if not (self._begun / CARD).is_file():
            self._begun.mkdir(parents=True, exist_ok=True)
            (self._begun / ROWS).touch()
            (self._begun / CLIPS).touch()
            begun = Begun(card=self._card, side=self._side)
            write_text(self._begun / CARD, json.dumps(unstructure(begun), indent=1, ensure_ascii=False) + "\n")
        self._files = (self._begun / ROWS).open("ab"), (self._begun / CLIPS).open("a", encoding="utf-8")
        return self._files


def _reason(entry: Entry | None, usual: tuple[int, ...], most: int) -> str:
    """Why a clip is not in the folder."""
    if entry is not None and entry.reason:
        return entry.reason
    if entry is None or entry.shape[1:] == usual:
        return f"the protocol takes the first {most} usable clips"
    shown, wanted = ("x".join(map(str, shape)) for shape in (entry.shape[1:], usual))
    return f"its rows are {shown}, those of most clips {wanted}: give videos of one size"


def _read_json(path: Path, kind: type[T]) -> T:
    try:
        return structure(json.loads(path.read_text(encoding="utf-8")), kind)
    except (OSError, ValueError, BaseValidationError) as error:
        raise MetricError(f"{path} is corrupt: delete {path.parent} and extract again") from error
