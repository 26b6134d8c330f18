"""Endless batches of training examples whose order is a pure function of the seed and the sample number.

Sample number n (counted over the whole run) is record pi_e(n mod N) of a dataset of N records, where e = n div N is the
epoch and pi_e a permutation drawn from (seed, e). Global batch s holds the sample numbers s B .. s B + B - 1, and
process p of P loads the rows p B/P .. (p + 1) B/P - 1 of it. So neither threads, nor the number of processes, nor where
a run was stopped changes what the model sees, and the whole state is one number: the next step. A corrupt record is
replaced as described in data/intact_records.py.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, cast

import grain
import numpy as np

from con360av_jax.config.settings import Config
from con360av_jax.data.intact_records import IntactRecords
from con360av_jax.data.schema import Sample, check_matches
from con360av_jax.data.source import Dataset
from con360av_jax.data.transforms import (
    Example,
    RawExample,
    Tokenise,
    check_trainable,
    collate,
    is_encoded,
    to_parts,
)
from con360av_jax.errors import DatasetError

SEEDS = 2**32
# Batches per thread that are read ahead.
BATCHES_AHEAD = 2
AnyExample: TypeAlias = Example | RawExample
Rows: TypeAlias = Callable[[int], dict[str, Any]]
"""Makes the example of a sample number; called from several threads at once."""


def sample_order(records: int, seed: int) -> grain.MapDataset:
    """Returns the endless order of records: element n is the record of sample number n.

    Every epoch holds each record once, in an order of its own: the shuffle stands before `repeat`, and Grain draws a
    new permutation for every pass over what it shuffles. After `repeat` it would mix the epochs.
    """
    if not 0 <= seed < SEEDS:
        raise DatasetError(f"the data seed must lie in [0, {SEEDS}), but is {seed}")
    return grain.MapDataset.range(records).seed(seed).shuffle().repeat()


class Loader(Iterator[AnyExample]):
    """Iterator over the batches of one process, read ahead by threads; its state is the number of the next step."""

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 0,
        corrupt: Callable[[], Mapping[int, str]] = dict,
    ):
        """`rows(n)` makes sample number n, from any thread; `corrupt()` returns the records that it replaced so far.

        Raises DatasetError if `batch_size`, that of all processes, does not divide over them.
        """
        if not 0 <= process_index < process_count:
            raise DatasetError(f"process_index={process_index} is not one of {process_count} processes")
        if batch_size < 1 or batch_size % process_count:
            raise DatasetError(
                f"a batch of {batch_size} samples does not divide over {process_count} processes: "
                f"use a multiple of {process_count}"
            )
        own = batch_size // process_count

        def read(local_number: int) -> dict[str, Any]:
            step, row = divmod(local_number, own)
            return rows(step * batch_size + process_index * own + row)

        local_numbers = grain.MapDataset.range(sys.maxsize // batch_size)
        self._batches = local_numbers.map(read).batch(own, drop_remainder=True, batch_fn=collate)
        self._corrupt = corrupt
        self._options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=BATCHES_AHEAD * threads)
        self._step = 0
        self._reader: grain.DatasetIterator | None = None
        self.set_state(start_step)

    def __next__(self) -> AnyExample:
        """Returns the batch of the next step; every array has a leading batch axis.

        Raises DatasetError for a corrupt record with on_corrupt=stop, for too many of them with skip.
        """
        if self._reader is None:
            self._reader = iter(self._batches[self._step :].to_iter_dataset(self._options))
        batch = next(self._reader)
        self._step += 1
        return cast(AnyExample, batch)

    @property
    def corrupt(self) -> Mapping[int, str]:
        """Corrupt records that this process has replaced: number of the record -> its location and reason."""
        return self._corrupt()

    def get_state(self) -> int:
        """Returns the step of the next batch; batches that were only read ahead do not count."""
        return self._step

    def set_state(self, step: int) -> None:
        """Moves to `step`: the next batch is the one that an uninterrupted run gets there."""
        if step < 0:
            raise DatasetError(f"a loader cannot start at step {step}: steps count from 0")
        self.close()
        self._step = step

    def close(self) -> None:
        """Stops the reading threads; the next batch starts them again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def make_loader(
    dataset: Dataset,
    config: Config,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    tokenise: Tokenise | None = None,
) -> Loader:
    """Returns the loader of this process for training on `dataset`, from `start_step` on.

    The module's docstring defines the order of samples. `batch_size` counts the samples of all processes; a
    dataset smaller than a batch is repeated within it. `config.train` sets the number of threads and the
    treatment of corrupt records. A dataset without encoded fields gives batches of RawExample and needs
    `tokenise`.

    Raises:
        DatasetError: the dataset was made for another config or has neither encoded nor raw fields, or
            `batch_size` does not divide over the processes.
    """
    fields, settings = dataset.manifest.fields, config.train
    check_matches(dataset.manifest, config)
    check_trainable(fields, f"dataset {dataset.folder}")
    if not is_encoded(fields) and tokenise is None:
        raise DatasetError(f"dataset {dataset.folder} is not encoded: give the tokenizers of a base for its captions")

    def make(record: int) -> dict[str, Any]:
        return to_parts(dataset[record], record, None if is_encoded(fields) else tokenise)

    order = sample_order(len(dataset), seed)
    records = IntactRecords(dataset, order, make, settings.on_corrupt, settings.max_corrupt_share)
    return Loader(
        records.__getitem__,
        batch_size,
        start_step,
        process_index,
        process_count,
        settings.loader_threads,
        lambda: records.corrupt,
    )


def excerpt_rows(
    dataset: Dataset, config: Config, example: Callable[[Sample, np.random.Generator], dict[str, Any]], seed: int
) -> tuple[Rows, IntactRecords[tuple[Sample, int]]]:
    """Returns the rows of a loader of random excerpts of records, and the records, whose corrupt ones are replaced.

    Row n is `example` of the record of sample number n, with random numbers of its own, drawn from (`seed`, n), and the
    position of the record as "sample_id". `config.train` sets the treatment of corrupt records.

    Raises DatasetError if the dataset was made for another config.
    """
    check_matches(dataset.manifest, config)
    settings = config.train
    records = IntactRecords(
        dataset,
        sample_order(len(dataset), seed),
        lambda record: (dataset[record], record),
        settings.on_corrupt,
        settings.max_corrupt_share,
    )

    def row(number: int) -> dict[str, Any]:
        sample, record = records[number]
        return {**example(sample, np.random.default_rng((seed, number))), "sample_id": np.asarray(record, np.int64)}

    return row, records
