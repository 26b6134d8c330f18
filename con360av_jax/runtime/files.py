"""Atomic writing: a file or folder is written aside in its own parent folder and moved into place when complete."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

from con360av_jax.errors import Con360Error

# Longest name of a recording or file, bytes in UTF-8, that becomes part of another file's name as it is. File systems
# take 255, and endings, numbers of segments and marks of unfinished files are added to it.
LONGEST_STEM = 200
KEPT_BYTES = 160


@contextmanager
def replacing(path: str | Path, error: type[Con360Error] = Con360Error) -> Generator[Path]:
    """Yields a free path beside `path`, for a file or a folder that takes the place of `path` when the block ends.

    An error inside the block removes it and leaves `path` as it was. A non-empty folder is never replaced.

    Raises:
        Con360Error: of type `error`, in place of any OSError inside the block, such as a full disk.
    """
    path = Path(path)
    aside = path.with_name(f".{file_stem(path.name)}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, path)
    except OSError as failure:
        reason = failure.strerror or failure
        raise error(f"{path} cannot be written ({reason}): make room or choose another place") from failure
    finally:
        _remove(aside)


def write_text(path: str | Path, text: str, error: type[Con360Error] = Con360Error) -> None:
    """Writes a UTF-8 text file atomically, and the folders above it; raises `error` if it cannot be written."""
    with replacing(path, error) as aside:
        aside.write_text(text, encoding="utf-8")


def write_lines(path: str | Path, lines: Iterable[Mapping[str, object]], error: type[Con360Error] = Con360Error) -> int:
    """Writes `lines` as JSON, one per line, like `write_text`; returns their number."""
    texts = [json.dumps(line, ensure_ascii=False) for line in lines]
    write_text(path, "".join(f"{text}\n" for text in texts), error)
    return len(texts)


def link_or_copy(source: str, target: str) -> None:
    """Makes `target` a hard link to `source`, or a copy if the file system has none; for `shutil.copytree`."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Removes what a killed process left of files or folders called `name` (a glob pattern) in `folder`.

    Only for a folder that no other process writes to.
    """
    for aside in folder.glob(f".{name}.*.partial"):
        _remove(aside)


def file_stem(name: str) -> str:
    """`name` as the beginning of a file's name: as it is, or shortened with a hash if it is too long or holds a slash.

    Different names give different files, and the result of this function stays as it is.
    """
    content = os.fsencode(name)
    if len(content) <= LONGEST_STEM and "/" not in name:
        return name
    start = content[:KEPT_BYTES].decode("utf-8", "ignore").replace("/", "_")
    return f"{start}~{hashlib.sha256(content).hexdigest()[:16]}"


def readable(path: str | Path) -> str:
    """The path as text that can be written to a file: bytes that are not UTF-8 become \\xHH."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.unlink()
