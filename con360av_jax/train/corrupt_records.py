"""Ledger of the corrupt records that a run replaced, for its report: one line per record, one file per process."""

from collections.abc import Mapping
from pathlib import Path

import jax

from con360av_jax.train.metrics import read_lines
from con360av_jax.train.run_folder import append_line


class CorruptRecordsLog:
    """Writer of RUN/damaged-PROCESS.jsonl: {record, reason}, with the record's position in the dataset.

    A resumed run finds some corrupt records again; each keeps its one line.
    """

    def __init__(self, run: Path):
        self._path = run / f"damaged-{jax.process_index()}.jsonl"
        self._known = {line["record"] for line in read_lines(self._path)}

    def add(self, corrupt: Mapping[int, str]) -> None:
        """Adds the records of `Loader.corrupt` that are not in the file yet."""
        for record in sorted(corrupt.keys() - self._known):
            append_line(self._path, {"record": record, "reason": corrupt[record]})
            self._known.add(record)


def read_corrupt_records(run: Path) -> list[str]:
    """Returns location and reason of each corrupt record of a run, in the order of the dataset."""
    lines = [line for path in sorted(run.glob("damaged-*.jsonl")) for line in read_lines(path)]
    return [reason for _, reason in sorted({line["record"]: line["reason"] for line in lines}.items())]
