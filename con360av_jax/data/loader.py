"""Endless batches of training examples whose order is a pure function of the seed and the sample number.

Sample number n (counted over the whole run) is record pi_e(n mod N) of a dataset of N records, where e = n div N is the
epoch and pi_e a permutation drawn from (seed, e). Global batch s holds the sample numbers s B .. s B + B - 1, and
process p of P loads the rows p B/P .. (p + 1) B/P - 1 of it. So neither threads, nor the number of processes, nor where
a run was stopped changes what the model sees, and the whole state is one number: the next step.
"""

import sys
from collections.abc import Iterator
from typing import cast

import grain

from con360av_jax.config import Config
from con360av_jax.data.schema import check_matches
from con360av_jax.data.source import Dataset
from con360av_jax.data.transforms import Example, check_trainable, to_example
from con360av_jax.errors import DatasetError

SEEDS = 2**32


def sample_order(records: int, seed: int) -> grain.MapDataset:
    """The endless order of records: element n is the record read as sample number n.

    Every epoch holds each record once, in an order of its own: the shuffle stands before `repeat`, and Grain draws a
    new permutation for every pass over what it shuffles. After `repeat` it would mix the epochs.
    """
    if not 0 <= seed < SEEDS:
        raise DatasetError(f"the data seed must lie in [0, {SEEDS}), but is {seed}")
    return grain.MapDataset.range(records).seed(seed).shuffle().repeat()


class Loader(Iterator[Example]):
    """Batches of one process, read ahead by threads; `get_state` and `set_state` move it to any step exactly."""

    def __init__(self, batches: grain.MapDataset, start_step: int, threads: int, ahead: int):
        self._batches = batches
        self._options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        self._step = 0
        self._reader: grain.DatasetIterator | None = None
        self.set_state(start_step)

    def __next__(self) -> Example:
        """The batch of the next step, every array with a leading batch axis; raises DatasetError on a bad record."""
        if self._reader is None:
            self._reader = iter(self._batches[self._step :].to_iter_dataset(self._options))
        batch = next(self._reader)
        self._step += 1
        return cast(Example, batch)

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
    threads: int = 2,
    ahead: int = 4,
) -> Loader:
    """Batches for training on `dataset`, from `start_step` on; see the module for their order.

    `batch_size` counts the samples of all processes; a dataset smaller than a batch is repeated within it. `threads`
    batches are made at a time and at most `ahead` kept waiting. Raises DatasetError if the dataset was made for another
    config, lacks encoded fields, or if `batch_size` does not divide over the processes.
    """
    check_matches(dataset.manifest, config)
    check_trainable(dataset.manifest.fields, f"dataset {dataset.folder}")
    if not 0 <= process_index < process_count:
        raise DatasetError(f"process_index={process_index} is not one of {process_count} processes")
    if batch_size < 1 or batch_size % process_count:
        raise DatasetError(
            f"a batch of {batch_size} samples does not divide over {process_count} processes: "
            f"use a multiple of {process_count}"
        )
    rows = batch_size // process_count
    order = sample_order(len(dataset), seed)

    def read(local_number: int) -> Example:
        step, row = divmod(local_number, rows)
        record = cast(int, order[step * batch_size + process_index * rows + row])
        return to_example(dataset[record], record)

    local_numbers = grain.MapDataset.range(sys.maxsize // batch_size)
    return Loader(local_numbers.map(read).batch(rows, drop_remainder=True), start_step, threads, ahead)
