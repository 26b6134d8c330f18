"""What happens when a record cannot be used: the run stops, or another record takes its place.

Sample number n of a dataset of N records reads the record order[n + k N] with the smallest k >= 0 for which that record
is sound: if the record of n is corrupt, the one that stands at the same place an epoch later, and so on. That depends
on the seed, on n and on the bytes of the dataset alone, so neither threads, nor processes, nor where a run was stopped
change what the model sees.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from itertools import accumulate, islice
from typing import Generic, Literal, TypeVar, cast

import grain

from con360av_jax.data.source import Dataset
from con360av_jax.errors import DatasetError, GeometryError

# Damaged records in a row after which nothing sound is looked for: far more than chance makes of a share that may be.
ATTEMPTS = 100
SHOWN = 5
Made = TypeVar("Made")

logger = logging.getLogger(__name__)


class SoundRecords(Generic[Made]):
    """`records[n]`: what `make` gives for the record of sample number n, or for its substitute; from any thread."""

    def __init__(
        self,
        dataset: Dataset,
        order: grain.MapDataset,
        make: Callable[[int], Made],
        policy: Literal["stop", "skip"],
        max_share: float,
    ):
        self._dataset, self._order, self._make = dataset, order, make
        self._allowed = 0 if policy == "stop" or not max_share else max(1, int(max_share * len(dataset)))
        self._max_share, self._policy = max_share, policy
        self._corrupt: dict[int, str] = {}
        self._lock = threading.Lock()

    @property
    def corrupt(self) -> Mapping[int, str]:
        """The corrupt records met so far, each with its place, key and reason."""
        with self._lock:
            return dict(self._corrupt)

    def __getitem__(self, number: int) -> Made:
        """Raises DatasetError for a corrupt record under "stop", for too many of them under "skip"."""
        for attempt in range(ATTEMPTS):
            record = cast(int, self._order[number + attempt * len(self._dataset)])
            if record in self._corrupt:
                continue
            try:
                return self._make(record)
            except (DatasetError, GeometryError) as error:
                if self._policy == "stop":
                    raise
                reason = str(error)
            # What a file system's hiccup does must not decide which records are seen: damage is there twice.
            try:
                return self._make(record)
            except (DatasetError, GeometryError):
                self._leave_out(record, reason)
        raise DatasetError(
            f"{self._dataset.folder}: {ATTEMPTS} records in a row are corrupt, among them {self._named()}; "
            "copy or write the dataset again"
        )

    def _leave_out(self, record: int, reason: str) -> None:
        with self._lock:
            if record in self._corrupt:
                return
            self._corrupt[record] = f"{locate(self._dataset, record)}: {reason}"
            found = len(self._corrupt)
        if found > self._allowed:
            raise DatasetError(
                f"{self._dataset.folder}: {found} of {len(self._dataset)} records are corrupt, more than "
                f"max_corrupt_share={self._max_share:g} allows: {self._named()}; copy or write the dataset again"
            )
        logger.warning("record left out (%d so far): %s", found, self._corrupt[record])

    def _named(self) -> str:
        corrupt = self.corrupt
        more = f"; and {len(corrupt) - SHOWN} more" if len(corrupt) > SHOWN else ""
        return "; ".join(list(corrupt.values())[:SHOWN]) + more


def locate(dataset: Dataset, record: int) -> str:
    """Where record `record` lies: its number, its key if the index has it, its shard and its place there."""
    starts = accumulate((shard.records for shard in dataset.manifest.shards), initial=0)
    start, shard = [pair for pair in zip(starts, dataset.manifest.shards, strict=False) if pair[0] <= record][-1]
    return f"record {record}{_key(dataset, record)}, number {record - start} of {shard.file}"


def _key(dataset: Dataset, record: int) -> str:
    try:
        with (dataset.folder / dataset.manifest.index.file).open(encoding="utf-8") as file:
            line = next(islice(file, record, None), "")
        return f" ({json.loads(line)['key']})"
    except (OSError, ValueError, KeyError, TypeError):
        # The index may be corrupt as well; its place names a record too.
        return ""
