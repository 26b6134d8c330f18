"""Endless batches of training examples whose order is a pure function of the seed and the sample number.

Sample number n (counted over the whole run) is record pi_e(n mod N) of a dataset of N records, where e = n div N is the
epoch and pi_e a permutation drawn from (seed, e). Global batch s holds the sample numbers s B .. s B + B - 1, and
process p of P loads the rows p B/P .. (p + 1) B/P - 1 of it. So neither threads, nor the number of processes, nor where
a run was stopped changes what the model sees, and the whole state is one number: the next step. `corrupt` says what
takes the place of a corrupt record.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, cast

import grain

from con360av_jax.config.settings import Config
from con360av_jax.data.intact_records import SoundRecords
from con360av_jax.data.schema import check_matches
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
# Finished batches that wait for each thread.
BATCHES_AHEAD = 2
AnyExample: TypeAlias = Example | RawExample


def sample_order(records: int, seed: int) -> grain.MapDataset:
    """The endless order of records: element n is the record read as sample number n.

    Every epoch holds each record once, in an order of its own: the shuffle stands before `repeat`, and Grain draws a
    new permutation for every pass over what it shuffles. After `repeat` it would mix the epochs.
    """
    if not 0 <= seed < SEEDS:
        raise DatasetError(f"the data seed must lie in [0, {SEEDS}), but is {seed}")
    return grain.MapDataset.range(records).seed(seed).shuffle().repeat()


class Loader(Iterator[AnyExample]):
    """Batches of one process, read ahead by threads; `get_state` and `set_state` move it to any step exactly."""

    def __init__(self, records: SoundRecords[Any], batches: grain.MapDataset, start_step: int, threads: int):
        self._records = records
        self._batches = batches
        self._options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=BATCHES_AHEAD * threads)
        self._step = 0
        self._reader: grain.DatasetIterator | None = None
        self.set_state(start_step)

    def __next__(self) -> AnyExample:
        """The batch of the next step, every array with a leading batch axis; raises DatasetError if a record is corrupt
        and the config says "stop", or if too many are."""
        if self._reader is None:
            self._reader = iter(self._batches[self._step :].to_iter_dataset(self._options))
        batch = next(self._reader)
        self._step += 1
        return cast(AnyExample, batch)

    @property
    def corrupt(self) -> Mapping[int, str]:
        """The corrupt records that this process has met and left out, by position: where each lies and why."""
        return self._records.corrupt

    def get_state(self) -> int:
        """The step whose batch comes next; batches read ahead but not yet returned do not count."""
        return self._step

    def set_state(self, step: int) -> None:
        """Goes to `step`: the next batch is the one an uninterrupted run sees there."""
        if step < 0:
            raise DatasetError(f"a loader cannot start at step {step}: steps count from 0")
        self.close()
        self._step = step

    def close(self) -> None:
        """Stops the reading threads; the loader starts them again if it is asked for another batch."""
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
    """Batches for training on `dataset`, from `start_step` on; see the module for their order.

    `batch_size` counts the samples of all processes; a dataset smaller than a batch is repeated within it. Threads and
    what happens to corrupt records are settings of `config.train`. A dataset without encoded fields gives batches of
    RawExample and needs `tokenise`. Raises DatasetError if the dataset was made for another config, holds neither
    encoded nor raw fields, or if `batch_size` does not divide over the processes.
    """
    fields, settings = dataset.manifest.fields, config.train
    check_matches(dataset.manifest, config)
    check_trainable(fields, f"dataset {dataset.folder}")
    if not is_encoded(fields) and tokenise is None:
        raise DatasetError(f"dataset {dataset.folder} is not encoded: its captions need the tokenizers of a base")
    if not 0 <= process_index < process_count:
        raise DatasetError(f"process_index={process_index} is not one of {process_count} processes")
    if batch_size < 1 or batch_size % process_count:
        raise DatasetError(
            f"a batch of {batch_size} samples does not divide over {process_count} processes: "
            f"use a multiple of {process_count}"
        )
    rows = batch_size // process_count

    def make(record: int) -> dict[str, Any]:
        return to_parts(dataset[record], record, None if is_encoded(fields) else tokenise)

    order = sample_order(len(dataset), seed)
    records = SoundRecords(dataset, order, make, settings.on_corrupt, settings.max_corrupt_share)

    def read(local_number: int) -> dict[str, Any]:
        step, row = divmod(local_number, rows)
        return records[step * batch_size + process_index * rows + row]

    local_numbers = grain.MapDataset.range(sys.maxsize // batch_size)
    batches = local_numbers.map(read).batch(rows, drop_remainder=True, batch_fn=collate)
    return Loader(records, batches, start_step, settings.loader_threads)
