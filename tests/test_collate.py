"""Memory of batches: used again when nobody looks at it any more, and not a moment earlier."""

import gc

import numpy as np

from con360av_jax.data.collate import BatchMemory, collate
from con360av_jax.data.transforms import map_planes

FLOAT = np.dtype(np.float32)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_once_nothing_refers_to_it():
    memory = BatchMemory()
    first = memory.empty((4, 1000), FLOAT)
    place = address(first)
    del first
    gc.collect()
    assert address(memory.empty((1000, 4), FLOAT)) == place


def test_a_view_of_a_batch_keeps_its_memory():
    memory = BatchMemory()
    batch = memory.empty((4, 1000), FLOAT)
    batch[:] = 1
    row, reshaped = batch[2, 10:20], batch.reshape(8, 500)[7].view(np.int32)
    del batch
    gc.collect()
    others = [memory.empty((4, 1000), FLOAT) for _ in range(3)]
    for other in others:
        other[:] = 2
    np.testing.assert_array_equal(row, np.ones(10, np.float32))
    np.testing.assert_array_equal(reshaped.view(np.float32), np.ones(500, np.float32))


def test_batches_are_stacked_examples_also_in_memory_used_before():
    memory, random = BatchMemory(), np.random.default_rng(0)
    for _ in range(3):
        examples = [
            {
                "maps": map_planes(
                    random.random((2, 8, 16, 1), np.float32), np.full((2, 4), random.uniform(0.5, 1), np.float32)
                ),
                "text": {"audio": random.random(5, np.float32)},
                "sample_id": np.asarray(number),
            }
            for number in range(3)
        ]
        batch = collate(examples, memory)
        for number, example in enumerate(examples):
            np.testing.assert_array_equal(batch["maps"][number], example["maps"].interleaved())
            np.testing.assert_array_equal(batch["text"]["audio"][number], example["text"]["audio"])
        np.testing.assert_array_equal(batch["sample_id"], [0, 1, 2])
        del batch
