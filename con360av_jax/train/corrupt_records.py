"""Damaged records that a run left out, kept in its folder for the report: one line per record, one file per process."""

from collections.abc import Mapping
from pathlib import Path

import jax

from con360av_jax.train.metrics import read_lines
from con360av_jax.train.run_folder import append_line


class CorruptRecordsLog:
    """Writes RUN/damaged-PROCESS.jsonl: {record, reason}, the record by its position in the dataset.

    A run that goes on meets some of them again; they stay one line.
    """

    def __init__(self, run: Path):
        self._path = run / f"damaged-{jax.process_index()}.jsonl"
        self._known = {line["record"] for line in read_lines(self._path)}

    def add(self, corrupt: Mapping[int, str]) -> None:
        """Adds what `Loader.corrupt` tells and is not there yet."""
        for record in sorted(corrupt.keys() - self._known):
            append_line(self._path, {"record": record, "reason": corrupt[record]})
            self._known.add(record)


def read_corrupt_records(run: Path) -> list[str]:
    """Where each corrupt record lies and why it was left out, in the order of the dataset."""
    lines = [line for path in sorted(run.glob("damaged-*.jsonl")) for line in read_lines(path)]
    return [reason for _, reason in sorted({line["record"]: line["reason"] for line in lines}.items())]
