"""Batches of examples, written into memory that earlier batches no longer need."""

import math
import weakref
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from con360av_jax.data.transforms import MapPlanes


class BatchMemory:
    """Arrays whose memory comes back when nothing refers to them; for several threads at once.

    Fresh memory of a batch's size is mapped page by page as it is written, and the allocator gives it back to the
    system with every batch: with small pages that took longer than filling it.
    """

    def __init__(self):
        self._free: defaultdict[int, list[bytearray]] = defaultdict(list)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of arbitrary content, like np.empty."""
        count = math.prod(shape)
        free = self._free[count * dtype.itemsize]
        try:
            block = free.pop()
        except IndexError:
            block = bytearray(count * dtype.itemsize)
        # Views of a view refer to the array that does not own its memory, never past it: the block is free with it.
        array = np.frombuffer(block, dtype)
        weakref.finalize(array, free.append, block).atexit = False
        return array.reshape(shape)


def collate(examples: Sequence[Any], memory: BatchMemory) -> Any:
    """Examples, or one of their fields, as one batch with a leading axis; MapPlanes become maps on the way.

    Written straight into the batch: maps are most of an example, and each copy of them costs as much as reading them.
    """
    first = examples[0]
    if isinstance(first, MapPlanes):
        maps = memory.empty((len(examples), *first.saliency.shape[:-1], 2), np.dtype(np.float32))
        for planes, out in zip(examples, maps, strict=True):
            planes.interleave(out)
        return maps
    if isinstance(first, dict):
        return {name: collate([example[name] for example in examples], memory) for name in first}
    return np.stack(examples, out=memory.empty((len(examples), *first.shape), first.dtype))
