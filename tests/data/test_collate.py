"""Batches are stacked examples."""

import numpy as np

from con360av_jax.data.transforms import collate, map_planes


def test_a_batch_holds_every_example_and_its_maps_interleaved():
    random = np.random.default_rng(0)
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
    batch = collate(examples)
    for number, example in enumerate(examples):
        np.testing.assert_array_equal(batch["maps"][number][..., :1], example["maps"].saliency)
        np.testing.assert_array_equal(batch["maps"][number][..., 1], example["maps"].distance)
        np.testing.assert_array_equal(batch["text"]["audio"][number], example["text"]["audio"])
    np.testing.assert_array_equal(batch["sample_id"], [0, 1, 2])
