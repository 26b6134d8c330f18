"""Reading of intact records: a corrupt record stops the run or is replaced by another record.

Sample number n of a dataset of N records reads record order[n + k N] with the smallest k >= 0 for which
that record is intact: if the record of n is corrupt, the one at the same place an epoch later is used,
and so on. The result depends on the seed, n and the bytes of the dataset only, not on threads,
processes or where a run was stopped.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from itertools import accumulate, islice
from typing import Generic, Literal, TypeVar, cast

import grain

from con360av_jax.data.source import Dataset
from con360av_jax.errors import DatasetError, GeometryError, some

# Corrupt records in a row after which the search ends: far more than chance gives at any allowed share.
ATTEMPTS = 100
Made = TypeVar("Made")

logger = logging.getLogger(__name__)


class IntactRecords(Generic[Made]):
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
        """Corrupt records found so far: number of the record -> its location, key and reason."""
        with self._lock:
            return dict(self._corrupt)

    def __getitem__(self, number: int) -> Made:
        """Returns `make` of the record of sample `number`, or of its replacement.

        Raises DatasetError for a corrupt record with policy "stop", for too many with "skip".
        """
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
            # A transient failure of the file system must not decide which records are seen: a corrupt one fails twice.
            try:
                return self._make(record)
            except (DatasetError, GeometryError):
                self._replace(record, reason)
        raise DatasetError(
            f"{self._dataset.folder}: {ATTEMPTS} records in a row are corrupt, among them {self._named()}; "
            "copy or write the dataset again"
        )

    def _replace(self, record: int, reason: str) -> None:
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
        logger.warning("corrupt record replaced by another one (%d so far): %s", found, self._corrupt[record])

    def _named(self) -> str:
        return some([*self.corrupt.values()], "; ")


def locate(dataset: Dataset, record: int) -> str:
    """Describes the location of a record: its number, its key if the index has it, its shard and its place there."""
    starts = accumulate((shard.records for shard in dataset.manifest.shards), initial=0)
    start, shard = [pair for pair in zip(starts, dataset.manifest.shards, strict=False) if pair[0] <= record][-1]
    return f"record {record}{_key(dataset, record)}, number {record - start} of {shard.file}"


def _key(dataset: Dataset, record: int) -> str:
    try:
        with (dataset.folder / dataset.manifest.index.file).open(encoding="utf-8") as file:
            line = next(islice(file, record, None), "")
        return f" ({json.loads(line)['key']})"
    except (OSError, ValueError, KeyError, TypeError):
        # The index may be corrupt, too; the location without a key is enough to find the record.
        return ""
