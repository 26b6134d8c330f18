"""Which files are processed, what their clips are called, and which of them belong to a split.

Splits go by source video, never by clip: clips of one video, named "<video>_<start second>", stay together. Only the
published split of Sphere360, and splits that a CSV states, are taken as they are; see `leak`.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from con360av_jax.errors import MediaError
from preprocess.clip_table import read_rows

SplitName = Literal["all", "train", "validation", "test"]
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
VALIDATION_SHARE = 0.15


@dataclass(frozen=True, kw_only=True)
class Input:
    """One file to process."""

    path: Path
    name: str
    """Of its clip, unique in the dataset."""
    source: str
    """Name of the video that the clip was cut from."""
    split: str
    """"train", "validation" or "test"; empty for a file in neither list of a published split."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The files to process, and what a published split and the files did not have in common."""

    inputs: tuple[Input, ...]
    absent: int = 0
    """Ids of the published split without a file among those given."""
    unlisted: int = 0
    """Files given that are in neither list of the published split."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """How much of what is held out (validation and test) comes from videos that are also trained on."""

    clips: int
    """Clips held out of which the source video has clips in the training split, too."""
    held_out: int
    """Clips held out."""
    sources: int
    """Source videos that stand on both sides."""
    held_out_sources: int


def find_inputs(
    places: Sequence[Path],
    split: SplitName = "all",
    listed: Path | None = None,
    most: int | None = None,
    seed: int = 0,
    published: Path | None = None,
) -> tuple[Input, ...]:
    """The inputs that `search` finds; arguments and errors are the same."""
    return search(places, split, listed, most, seed, published).inputs


def search(
    places: Sequence[Path],
    split: SplitName = "all",
    listed: Path | None = None,
    most: int | None = None,
    seed: int = 0,
    published: Path | None = None,
) -> Found:
    """The files given, the videos in folders given, in order of their names, and the rows of CSV files given.

    A file is used once, however often it is given. What a CSV names is kept even if it does not exist, so that whoever
    reads it says so.

    Args:
        places: files, taken as they are; folders, searched through for videos; CSV files, see `clip_table`.
        split: the part to keep.
        listed: text file with one clip name per line; only those are kept.
        most: keep at most this many.
        seed: of the division of source videos into train and validation, where no CSV and no published split says it.
        published: folder with train.txt and test.txt, which hold clip names, as Sphere360's. It has no validation part:
            "validation" means its "test".

    Raises:
        MediaError: a folder without videos, a CSV or list that cannot be read, or nothing left of the split or list.
    """
    first: dict[Path, Input] = {}
    for entry in chain.from_iterable(_at(place, seed) for place in places):
        first.setdefault(entry.path, entry)
    given = list(first.values())
    absent = unlisted = 0
    if published is not None:
        given, absent, unlisted = _as_published(given, published)
        split = "test" if split == "validation" else split
    kept = [entry for entry in given if split in ("all", entry.split)]
    if listed is not None:
        names = _listed(listed)
        kept = [entry for entry in kept if entry.name in names]
    if not kept:
        raise MediaError(f"none of {len(given)} videos is in split {split!r}{f' and in {listed}' if listed else ''}")
    return Found(inputs=_apart(kept[:most]), absent=absent, unlisted=unlisted)


def source_of(name: str) -> str:
    """The source video of a clip that is called "<video>_<start second>"; other names are those of whole videos."""
    return re.sub(r"_\d+$", "", name)


def split_of(name: str, seed: int = 0) -> Literal["train", "validation"]:
    """The split of a clip's source video; see `split_of_source`."""
    return split_of_source(source_of(name), seed)


def split_of_source(source: str, seed: int = 0) -> Literal["train", "validation"]:
    """By the hash of the video's name and the seed: the same on every machine, in every folder and in any company."""
    text = f"{seed}:{source}" if seed else source
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return "validation" if number < VALIDATION_SHARE * 2**64 else "train"


def leak(inputs: Iterable[Input]) -> Leak:
    """How far the splits of `inputs` share source videos; all zero for splits by source video."""
    inputs = tuple(inputs)
    trained = {entry.source for entry in inputs if entry.split == "train"}
    held_out = Counter(entry.source for entry in inputs if entry.split in ("validation", "test"))
    shared = {source: clips for source, clips in held_out.items() if source in trained}
    return Leak(
        clips=sum(shared.values()),
        held_out=held_out.total(),
        sources=len(shared),
        held_out_sources=len(held_out),
    )


def _at(place: Path, seed: int) -> list[Input]:
    """What one place holds, clips not yet named apart."""
    if place.suffix.lower() == ".csv" and not place.is_dir():
        rows = read_rows(place)
        sources = [row.source or source_of(row.clip) for row in rows]
        return [
            Input(path=row.path, name=row.clip, source=source, split=row.split or split_of_source(source, seed))
            for row, source in zip(rows, sources, strict=True)
        ]
    if not place.is_dir():
        return [_file(place, seed)]
    # A link whose file was moved is no folder either: it must reach the ledger.
    inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir())
    if not inside:
        raise MediaError(f"{place}: holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}); give another folder")
    return [_file(path, seed) for path in inside]


def _file(path: Path, seed: int) -> Input:
    return Input(path=path, name=path.stem, source=source_of(path.stem), split=split_of(path.stem, seed))


def _as_published(given: list[Input], folder: Path) -> tuple[list[Input], int, int]:
    """The inputs with their published split, the number of ids without a file and of files without an id."""
    train, test = (_listed(folder / f"{part}.txt") for part in ("train", "test"))
    if both := sorted(train & test):
        raise MediaError(
            f"{folder}: {both[0]!r} is in both train.txt and test.txt ({len(both)} are); correct the lists"
        )
    splits = dict.fromkeys(train, "train") | dict.fromkeys(test, "test")
    inputs = [replace(entry, split=splits.get(entry.name, "")) for entry in given]
    absent = len(splits.keys() - {entry.name for entry in given})
    return inputs, absent, sum(not entry.split for entry in inputs)


def _listed(path: Path) -> set[str]:
    try:
        return set(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{path}: the list of clips cannot be read ({error}); give a text file") from error


def _apart(inputs: Sequence[Input]) -> tuple[Input, ...]:
    """Clips of the same name get a number, so that each is unique."""
    taken: set[str] = set()
    named = []
    for entry in inputs:
        name, number = entry.name, 2
        while name in taken:
            name, number = f"{entry.name}~{number}", number + 1
        taken.add(name)
        named.append(replace(entry, name=name))
    return tuple(named)
