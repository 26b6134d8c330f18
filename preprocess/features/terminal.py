"""Summary of `python -m preprocess features`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from preprocess.features.extraction import Extracted

# Number of rejected files that the summary shows.
SHOWN = 20


def summarise(console: Console, out: Path, parts: Sequence[str], extracted: Extracted) -> None:
    """Shows the rejected files, each file and reason once, and the size of each part."""
    by_line: dict[tuple[str, str], list[str]] = {}
    for part in parts:
        for line in extracted.rejected[part]:
            by_line.setdefault((str(line["file"]), str(line["reason"])), []).append(part)
    if by_line:
        table = Table("file", "parts", "reason", title="left out", title_justify="left")
        for (file, reason), names in list(by_line.items())[:SHOWN]:
            table.add_row(file, " ".join(names), reason)
        console.print(table)
        if len(by_line) > SHOWN:
            console.print(f"and {len(by_line) - SHOWN} more; all of them in rejected.jsonl of each part")
    for part in parts:
        found = extracted.features.get(part)
        if found is None:
            console.print(f"{out / part}: not written, no clip is usable for it", highlight=False, soft_wrap=True)
            continue
        shape = "x".join(map(str, found.values.shape[1:]))
        console.print(
            f"{out / part}: {found.card.clips} clips, {found.card.rows} rows of {shape}, {found.card.model}; "
            f"{len(found.rejected)} left out",
            highlight=False,
            soft_wrap=True,
        )
