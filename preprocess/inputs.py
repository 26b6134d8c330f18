"""Search for the files to process, the names of their clips, and their split.

Splits are by source video, not by clip: clips of one video, named "<video>_<start second>", stay together. Only the
published split of Sphere360 and splits stated in a CSV are taken as they are; see `leak`.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal
from unicodedata import normalize

from con360av_jax.errors import MediaError, some
from con360av_jax.runtime.files import readable
from con360av_jax.runtime.text_files import read_text, split_lines
from preprocess.choices import SplitName
from preprocess.clip_table import read_rows

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
VALIDATION_SHARE = 0.15


@dataclass(frozen=True, kw_only=True)
class Input:
    """One file to process."""

    path: Path
    name: str
    """Name of its clip, unique in the dataset."""
    source: str
    """Name of the video that the clip was cut from."""
    split: str
    """"train", "validation" or "test"; empty for a file in neither list of a published split."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The files to process, and the mismatches between them and a published split."""

    inputs: tuple[Input, ...]
    absent: int = 0
    """Number of ids of the published split without a given file."""
    unlisted: int = 0
    """Number of given files that are in neither list of the published split."""
    absent_names: tuple[str, ...] = ()
    """Names in the lists without a given file: those of the published split, then those of the list of clips."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Number of held-out clips (validation and test) from source videos that also have training clips."""

    clips: int
    """Held-out clips whose source video also has training clips."""
    held_out: int
    """Held-out clips."""
    sources: int
    """Source videos with both held-out and training clips."""
    held_out_sources: int
    """Source videos with held-out clips."""


def search(
    places: Sequence[Path],
    split: SplitName = "all",
    listed: Path | None = None,
    most: int | None = None,
    seed: int = 0,
    published: Path | None = None,
) -> Found:
    """The given files, the videos in given folders in the order of their names, and the rows of given CSV files.

    A file is used once, however often it is given. A file that a CSV names is kept even if it does not exist, so that
    the stage which reads it rejects it.

    Args:
        places: files; folders, whose videos are found at any depth; CSV files, see `clip_table`.
        split: split to keep.
        listed: text file with one clip or file name per line; only these clips are kept.
        most: largest number of inputs.
        seed: seed of the train/validation split of source videos, if neither a CSV nor a published split states it.
        published: folder with train.txt and test.txt, which hold clip names, as Sphere360's. It has no validation part:
            "validation" means its "test".

    Raises:
        MediaError: a folder holds no videos, a CSV or list cannot be read, or the split or list leaves no input.
    """
    first: dict[Path, Input] = {}
    for entry in chain.from_iterable(_at(place, seed) for place in places):
        first.setdefault(entry.path, entry)
    given = list(first.values())
    absent, unlisted, lacking = [], 0, []
    if published is not None:
        given, absent, unlisted = _as_published(given, published)
        split = "test" if split == "validation" else split
    kept = [entry for entry in given if split in ("all", entry.split)]
    if listed is not None:
        names = _listed(listed)
        kept = [entry for entry in kept if _names(entry) & names.keys()]
        there = set().union(*map(_names, given))
        lacking = [name for name in names if name not in there]
    if not kept:
        raise MediaError(
            f"none of {len(given)} videos is in split {split!r}{f' and in {listed}' if listed else ''}"
            + (f"; the list names {some(lacking)}, of which there is no file" if lacking else "")
        )
    return Found(inputs=_apart(kept[:most]), absent=len(absent), unlisted=unlisted, absent_names=(*absent, *lacking))


def source_of(name: str) -> str:
    """Source video of a clip named "<video>_<start second>"; any other name is that of the source video itself."""
    return re.sub(r"_\d+$", "", name)


def split_of(name: str, seed: int = 0) -> Literal["train", "validation"]:
    """Split of a clip's source video, see `split_of_source`."""
    return split_of_source(source_of(name), seed)


def split_of_source(source: str, seed: int = 0) -> Literal["train", "validation"]:
    """Split by a hash of the video's name and the seed, independent of machine, folder and other videos."""
    text = f"{seed}:{source}" if seed else source
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return "validation" if number < VALIDATION_SHARE * 2**64 else "train"


def leak(inputs: Iterable[Input]) -> Leak:
    """Counts the clips of source videos that several splits of `inputs` share; all 0 for splits by source video."""
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
    """Inputs of one place; clip names may repeat."""
    if place.suffix.lower() == ".csv" and not place.is_dir():
        rows = read_rows(place)
        sources = [row.source or source_of(row.clip) for row in rows]
        return [
            Input(path=row.path, name=row.clip, source=source, split=row.split or split_of_source(source, seed))
            for row, source in zip(rows, sources, strict=True)
        ]
    if not place.is_dir():
        return [_file(place, seed)]
    # Also broken links, so that they reach the ledger.
    inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir())
    if not inside:
        raise MediaError(f"{place}: holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}); give another folder")
    return [_file(path, seed) for path in inside]


def _file(path: Path, seed: int) -> Input:
    name = readable(path.stem)
    return Input(path=path, name=name, source=source_of(name), split=split_of(name, seed))


def _as_published(given: list[Input], folder: Path) -> tuple[list[Input], list[str], int]:
    """Inputs with their published split, the ids without a file, and the number of files without an id."""
    train, test = (_listed(folder / f"{part}.txt") for part in ("train", "test"))
    if both := sorted(train.keys() & test.keys()):
        raise MediaError(
            f"{folder}: {both[0]!r} is in both train.txt and test.txt ({len(both)} are); correct the lists"
        )
    splits = dict.fromkeys(train, "train") | dict.fromkeys(test, "test")
    inputs = [
        replace(entry, split=next((splits[name] for name in _names(entry) if name in splits), "")) for entry in given
    ]
    there = set().union(*map(_names, given))
    return inputs, [name for name in splits if name not in there], sum(not entry.split for entry in inputs)


def _listed(path: Path) -> dict[str, None]:
    """Names in a list, one per line, in order."""
    lines = (_alike(line) for line in split_lines(read_text(path, MediaError)))
    return dict.fromkeys(line for line in lines if line)


def _names(entry: Input) -> set[str]:
    """Names by which a list may mean an input."""
    return {_alike(entry.name), _alike(readable(entry.path.name))}


def _alike(name: str) -> str:
    """The name in composed characters: macOS stores accents apart from their letters."""
    return normalize("NFC", name.strip())


def _apart(inputs: Sequence[Input]) -> tuple[Input, ...]:
    """Inputs with unique clip names: the second of equal names gets "~2", and so on."""
    taken: set[str] = set()
    named = []
    for entry in inputs:
        name, number = entry.name, 2
        while name in taken:
            name, number = f"{entry.name}~{number}", number + 1
        taken.add(name)
        named.append(replace(entry, name=name))
    return tuple(named)
