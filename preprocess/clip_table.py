"""CSV files of clips: given as a place to look for inputs, and written by `list`.

Columns: `file` (needed; relative to the CSV), `clip` (name; else the file's), `source` (the video that the clip was cut
from; else from the clip's name) and `split` (train, validation or test; else by the source video). Others are ignored.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from con360av_jax.errors import MediaError
from con360av_jax.runtime.files import replacing

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a CSV says about one clip; what it does not say is empty, except the clip's name."""

    path: Path
    clip: str
    source: str
    split: str


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of the CSV file at `path`, in its order; none of the files need exist.

    Raises:
        MediaError: no readable CSV in UTF-8, without the column `file` or without rows; or a row without a file, with
            more cells than columns, or with an unknown split. The message names the line.
    """
    try:
        # Spreadsheets put a byte order mark first.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            if "file" not in (reader.fieldnames or ()):
                raise MediaError(f"{path}: has no column 'file' in its first line; add one, separated by commas")
            rows = tuple(_row(path, reader.line_num, cells) for cells in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MediaError(f"{path}: cannot be read as a CSV file ({error}); give one in UTF-8") from error
    if not rows:
        raise MediaError(f"{path}: holds no rows; name at least one file")
    return rows


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[dict[str, object]]) -> None:
    """Writes a CSV file in one step, when it is complete; raises MediaError if it cannot be written."""
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
