"""CSV files of clips: read as a source of inputs, and written by the command `list`.

Columns: `file` (required; relative to the CSV), `clip` (name; default: that of the file), `source` (source video;
default: derived from the clip's name) and `split` (train, validation or test; default: by the source video). Other
columns are ignored.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from con360av_jax.errors import MediaError
from con360av_jax.runtime.files import replacing
from con360av_jax.runtime.text_files import read_text

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a CSV; cells without a value are empty, except the clip's name."""

    path: Path
    clip: str
    source: str
    split: str


def read_rows(path: Path) -> tuple[Row, ...]:
    """Rows of the CSV file at `path`, in its order; the files that it names need not exist.

    Raises:
        MediaError: the file is no readable CSV in UTF-8, has no column `file` or no rows; or a row has no file, more
            cells than there are columns, or an unknown split. The message names the line.
    """
    reader = csv.DictReader(StringIO(read_text(path, MediaError), newline=""), strict=True)
    try:
        if "file" not in (reader.fieldnames or ()):
            raise MediaError(f"{path}: has no column 'file' in its first line; add one, separated by commas")
        rows = tuple(_row(path, reader.line_num, cells) for cells in reader)
    except csv.Error as error:
        raise MediaError(f"{path}: cannot be read as a CSV file ({error}); give one in UTF-8") from error
    if not rows:
        raise MediaError(f"{path}: holds no rows; name at least one file")
    return rows


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[dict[str, object]]) -> None:
    """Writes a CSV file atomically; raises MediaError if it cannot be written."""
    with replacing(path, MediaError) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _row(path: Path, line: int, cells: dict[str | None, str | list[str] | None]) -> Row:
    if None in cells:
        raise MediaError(f"{path}: line {line} has more cells than there are columns; quote names that hold commas")
    file, clip, source, split = (str(cells.get(name) or "").strip() for name in ("file", "clip", "source", "split"))
    if not file:
        raise MediaError(f"{path}: line {line} names no file; fill in its column 'file' or delete the line")
    if split not in ("", *SPLITS):
        raise MediaError(f"{path}: line {line} has split {split!r}; write {', '.join(SPLITS)} or nothing")
    return Row(path=path.parent / file, clip=clip or Path(file).stem, source=source, split=split)
