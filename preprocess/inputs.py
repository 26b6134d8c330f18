"""Which files are processed, what their clips are called, and which of them belong to a split.

Splits go by source video, never by clip: clips of one video, named "<video>_<start second>", stay together.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from con360av_jax.errors import MediaError

SplitName = Literal["all", "train", "validation"]
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
VALIDATION_SHARE = 0.15


@dataclass(frozen=True, kw_only=True)
class Input:
    """One file to process."""

    path: Path
    name: str
    """Of its clip, unique in the dataset."""


def find_inputs(
    places: Sequence[Path], split: SplitName = "all", listed: Path | None = None, most: int | None = None
) -> tuple[Input, ...]:
    """The files given and the videos in folders given, in order of their names.

    Args:
        places: files, taken as they are, and folders, searched through for videos.
        split: a share of the source videos.
        listed: text file with one clip name per line, such as a published split; only those are kept.
        most: keep at most this many.

    Raises:
        MediaError: a folder without videos, or nothing left of the split or list.
    """
    paths: list[Path] = []
    for given in places:
        if not given.is_dir():
            paths.append(given)
            continue
        inside = sorted(path for path in given.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
        if not inside:
            raise MediaError(f"{given}: holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}); give another folder")
        paths += inside
    paths = list(dict.fromkeys(paths))
    kept = [path for path in paths if split in ("all", split_of(path.stem))]
    if listed is not None:
        names = _listed(listed)
        kept = [path for path in kept if path.stem in names]
    if not kept:
        raise MediaError(f"none of {len(paths)} videos is in split {split!r}{f' and in {listed}' if listed else ''}")
    return _named(kept[:most])


def split_of(stem: str) -> SplitName:
    """The split of a clip's source video, by the hash of its name: the same on every machine and in every folder."""
    source = re.sub(r"_\d+$", "", stem)
    number = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big")
    return "validation" if number < VALIDATION_SHARE * 2**64 else "train"


def _listed(path: Path) -> set[str]:
    try:
        return set(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{path}: the list of clips cannot be read ({error}); give a text file") from error


def _named(paths: Sequence[Path]) -> tuple[Input, ...]:
    """Clips are called like their file, with a number where a name is taken."""
    taken: set[str] = set()
    inputs = []
    for path in paths:
        name, number = path.stem, 2
        while name in taken:
            name, number = f"{path.stem}~{number}", number + 1
        taken.add(name)
        inputs.append(Input(path=path, name=name))
    return tuple(inputs)
