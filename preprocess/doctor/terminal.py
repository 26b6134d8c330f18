"""Terminal output of the doctor: a progress bar over records, the table of checks and the first findings."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from preprocess.doctor.checks import CHECKS
from preprocess.doctor.examine import Examination, examine
from preprocess.doctor.findings import Findings

SHOWN = 20
STYLES = {"error": "red", "warning": "yellow"}


def examine_shown(folders: Sequence[Path], samples: int, console: Console) -> Examination:
    """`examine` with a progress bar over the records of each dataset; raises DatasetError as `examine` does."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks = {}

        def advance(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done)

        return examine(folders, samples, advance)


def summarise(findings: Findings, page: Path, console: Console) -> None:
    """Prints the table of checks, the first findings, and where the page is."""
    table = Table()
    table.add_column("check")
    table.add_column("looked at", justify="right")
    table.add_column("")
    for column in ("errors", "warnings"):
        table.add_column(column, justify="right")
    for name, check in CHECKS.items():
        tally = findings.tallies[name]
        looked = (f"{tally.looked_at:,}", check.unit) if tally.looked_at else ("-", "")
        counts = [Text(f"{tally.found:,}" if tally.found else "", STYLES[check.severity])]
        row = [*counts, Text("")] if check.severity == "error" else [Text(""), *counts]
        table.add_row(name, *looked, *row)
    console.print(table)
    listed = findings.listed()
    for finding in listed[:SHOWN]:
        console.print(
            Text.assemble(
                (finding.severity, STYLES[finding.severity]),
                f" {finding.check}: {finding.dataset}: {finding.where}: {finding.what}; {finding.what_to_do}",
            )
        )
    if len(listed) > SHOWN:
        console.print(f"and {len(listed) - SHOWN} more on the page", highlight=False)
    errors, warnings = findings.count("error"), findings.count("warning")
    console.print(Text(f"{errors} errors, {warnings} warnings; {page}"))
