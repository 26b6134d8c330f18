"""The loader: order from seed and sample number alone, exact resume, the same global batch for any process count."""

import itertools
from typing import cast

import jax
import numpy as np
import pytest

from con360av_jax.data.fake import ALL_FIELDS, batch_spec, fake_batch, fake_sample
from con360av_jax.data.loader import Loader, make_loader, sample_order
from con360av_jax.data.schema import ENCODED_FIELDS, MAP_FIELDS
from con360av_jax.data.source import open_dataset
from con360av_jax.data.transforms import CaptionTokens, RawExample, collate, stack_maps, to_parts
from con360av_jax.data.writer import write_dataset
from con360av_jax.errors import DatasetError
from con360av_jax.sphere.geometry import basd
from tests.support.tiny_world import assert_same, with_part, with_train

FIELDS = ENCODED_FIELDS + MAP_FIELDS
RECORDS = 7


@pytest.fixture(scope="module")
def dataset(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader") / "data"
    samples = (fake_sample(tiny, number, fields=FIELDS) for number in range(RECORDS))
    write_dataset(folder, samples, tiny, FIELDS, [], {}, shard_records=3)
    return open_dataset(folder)


@pytest.fixture
def load(tiny, dataset):
    """Makes loaders and stops their threads at the end of the test."""
    loaders: list[Loader] = []

    def load(batch_size: int = 4, seed: int = 0, threads: int = 2, **options) -> Loader:
        config = with_train(tiny, loader_threads=threads)
        loaders.append(make_loader(dataset, config, batch_size, seed, **options))
        return loaders[-1]

    yield load
    for loader in loaders:
        loader.close()


def ids(loader: Loader, steps: int) -> list[list[int]]:
    return [batch["sample_id"].tolist() for batch in itertools.islice(loader, steps)]


@pytest.mark.parametrize("records", [1, 2, 7, 100])
def test_every_epoch_holds_every_record_once(records):
    order = sample_order(records, seed=5)
    for epoch in range(4):
        assert sorted(order[epoch * records + i] for i in range(records)) == list(range(records))


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    records = 50
    orders = {
        tuple(sample_order(records, seed)[epoch * records + i] for i in range(records))
        for seed in range(3)
        for epoch in range(4)
    }
    assert len(orders) == 12
    assert tuple(range(records)) not in orders


def test_order_is_a_pure_function_of_seed_and_sample_number():
    first, second = sample_order(9, seed=3), sample_order(9, seed=3)
    numbers = [40, 3, 3, 0, 10_000_000_007]
    assert [first[number] for number in numbers] == [second[number] for number in reversed(numbers)][::-1]


def test_batches_follow_the_order_through_epochs(load):
    order = sample_order(RECORDS, seed=11)
    read = [number for batch in ids(load(batch_size=4, seed=11), 7) for number in batch]
    assert read == [order[number] for number in range(28)]


def test_a_batch_holds_the_records_it_names(dataset, load):
    batch = next(load())
    for row, record in enumerate(batch["sample_id"]):
        expected = collate([to_parts(dataset[record], int(record))])
        assert_same(jax.tree.map(lambda array, row=row: array[row : row + 1], batch), expected)


def test_a_dataset_smaller_than_the_batch_is_repeated(load):
    (numbers,) = ids(load(batch_size=2 * RECORDS + 2), 1)
    counts = np.bincount(numbers, minlength=RECORDS)
    assert counts.min() >= 2 and counts.sum() == 2 * RECORDS + 2


@pytest.mark.parametrize("stop", [0, 1, 5])
def test_resume_equals_an_uninterrupted_run_bit_for_bit(load, stop):
    whole = list(itertools.islice(load(seed=2), 8))
    stopped = load(seed=2)
    ids(stopped, stop)
    state = stopped.get_state()
    assert state == stop  # one number, whatever was read ahead
    resumed, started = load(seed=2), load(seed=2, start_step=state)
    ids(resumed, 3)
    resumed.set_state(state)
    for expected in whole[stop:]:
        assert_same(next(resumed), expected)
        assert_same(next(started), expected)
    assert resumed.get_state() == started.get_state() == 8


def test_moving_a_loader_back_and_forth_finds_the_same_batches(load):
    loader = load()
    whole = ids(loader, 6)
    for step in (4, 0, 5, 2):
        loader.set_state(step)
        assert ids(loader, 1) == [whole[step]]


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_processes_together_load_the_same_global_batch(load, count):
    whole = load(batch_size=6, seed=4)
    parts = [load(batch_size=6, seed=4, process_index=index, process_count=count) for index in range(count)]
    for _ in range(4):
        joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *[next(part) for part in parts])
        assert_same(joined, next(whole))


def test_a_run_may_go_on_with_another_number_of_processes(load):
    whole = ids(load(seed=4), 5)
    part = load(seed=4, process_index=1, process_count=2)
    ids(part, 3)
    resumed = load(seed=4, process_index=3, process_count=4, start_step=part.get_state())
    assert ids(resumed, 2) == [batch[3:] for batch in whole[3:]]


@pytest.mark.parametrize("threads", [0, 2, 4])
def test_threads_do_not_change_the_batches(load, threads):
    for batch, expected in itertools.islice(zip(load(threads=threads), load(threads=1), strict=True), 6):
        assert_same(batch, expected)


def test_maps_are_saliency_and_the_viewpoints_distance(tiny):
    sample = fake_sample(tiny, 0)
    saliency, viewpoint = sample.arrays["saliency"], sample.arrays["viewpoint"]
    maps = stack_maps(saliency, viewpoint)
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(maps[..., :1], saliency)
    np.testing.assert_array_equal(maps[..., 1], basd(viewpoint, tiny.clip.map_height, tiny.clip.map_width))
    assert not np.array_equal(
        maps[..., 1], stack_maps(saliency, viewpoint + np.asarray([0.5, 0, 0, 0], np.float32))[..., 1]
    )


def test_loader_fake_batch_and_spec_have_one_structure(tiny, load):
    spec = batch_spec(tiny, 4)
    for batch in (next(load(batch_size=4)), fake_batch(tiny, 4)):
        assert jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), batch) == spec


def test_fake_data_is_a_function_of_its_seed(tiny):
    assert_same(fake_batch(tiny, 2, seed=1), fake_batch(tiny, 2, seed=1))
    one, other = fake_batch(tiny, 2, seed=1), fake_batch(tiny, 2, seed=2)
    assert not np.array_equal(one["moments"]["audio"]["mean"], other["moments"]["audio"]["mean"])
    assert set(fake_sample(tiny, 0).arrays) == set(ALL_FIELDS)


def test_loaders_that_cannot_work_are_refused(tiny, dataset, load):
    with pytest.raises(DatasetError, match="5 samples does not divide over 2 processes"):
        load(batch_size=5, process_count=2)
    with pytest.raises(DatasetError, match="process_index=2 is not one of 2"):
        load(process_index=2, process_count=2)
    with pytest.raises(DatasetError, match="seed must lie in"):
        load(seed=-1)
    with pytest.raises(DatasetError, match="cannot start at step -1"):
        load(start_step=-1)
    with pytest.raises(DatasetError, match="clip.height is 16 in the dataset, 32"):
        make_loader(dataset, with_part(tiny, "clip", height=32), 4, 0)


def test_a_dataset_with_neither_encoded_nor_raw_fields_cannot_be_trained_on(tiny, tmp_path):
    sounds = ("sound", "mel", *MAP_FIELDS)
    write_dataset(tmp_path / "sounds", [fake_sample(tiny, 0, fields=sounds)], tiny, sounds, [], {})
    with pytest.raises(DatasetError, match="sounds cannot be trained on: it lacks audio_latent_mean.*clip_text"):
        make_loader(open_dataset(tmp_path / "sounds"), tiny, 1, 0)


def test_a_dataset_of_raw_fields_gives_pictures_mels_and_tokens(tiny, tmp_path):
    raw = ("video", "sound", "mel", *MAP_FIELDS)
    sample = fake_sample(tiny, 0, fields=raw)
    write_dataset(tmp_path / "raw", [sample], tiny, raw, [], {})
    dataset = open_dataset(tmp_path / "raw")
    with pytest.raises(DatasetError, match="raw is not encoded: give the tokenizers of a base"):
        make_loader(dataset, tiny, 2, 0)

    def tokenise(caption: str) -> dict[str, CaptionTokens]:
        letters = np.frombuffer(caption.encode(), np.uint8).astype(np.int32)
        return {name: CaptionTokens(ids=letters, mask=letters > 0) for name in ("audio", "video")}

    loader = make_loader(dataset, tiny, 2, 0, tokenise=tokenise)
    batch = next(loader)
    loader.close()
    expected = to_parts(sample, 0, tokenise)
    expected["maps"] = stack_maps(sample.arrays["saliency"], sample.arrays["viewpoint"])
    assert_same(batch, jax.tree.map(lambda array: np.stack([array, array]), expected))
    assert bytes(cast(RawExample, batch)["tokens"]["video"]["ids"][1].tolist()).decode() == sample.caption
