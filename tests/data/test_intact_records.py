"""Corrupt records stop a run or are named, counted and replaced by records that seed and sample number determine."""

import dataclasses
import itertools
import logging
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.data import writer
from con360av_jax.data.fake import fake_sample
from con360av_jax.data.intact_records import ATTEMPTS, IntactRecords
from con360av_jax.data.loader import Loader, make_loader, sample_order
from con360av_jax.data.schema import ENCODED_FIELDS, MAP_FIELDS, Sample
from con360av_jax.data.source import Dataset, open_dataset
from con360av_jax.data.writer import write_dataset
from con360av_jax.errors import ConfigError, DatasetError
from con360av_jax.train.corrupt_records import CorruptRecordsLog, read_corrupt_records
from tests.support.damage import overwrite
from tests.support.tiny_world import assert_same, with_train

FIELDS = ENCODED_FIELDS + MAP_FIELDS
RECORDS = 7
REASONS = {1: "corrupt", 3: "holds NaN or infinity in 200 places", 4: "field of view", 5: "wanted float32"}


def broken(sample: Sample, number: int) -> Sample:
    """Record 3 with a NaN, 4 without a field of view, 5 of another shape; the others as they are."""
    arrays = dict(sample.arrays)
    if number == 3:
        arrays["audio_latent_mean"] = np.where(np.arange(8) == 0, np.float32("nan"), arrays["audio_latent_mean"])
    elif number == 4:
        arrays["viewpoint"] = np.zeros_like(arrays["viewpoint"])
    elif number == 5:
        arrays["saliency"] = arrays["saliency"][:, :-1]
    return dataclasses.replace(sample, arrays=arrays)


def write(folder: Path, config: Config, damage: bool = True, records: int = RECORDS) -> Path:
    """A dataset of one record a shard; with `damage`, records 1, 3, 4 and 5 cannot be used."""
    samples = [fake_sample(config, number, fields=FIELDS) for number in range(records)]
    if damage:
        samples = [broken(sample, number) for number, sample in enumerate(samples)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "validate", lambda sample, config, fields: None)
        write_dataset(folder, samples, config, FIELDS, [], {}, shard_records=1)
    if damage:
        overwrite(folder / "samples-00001.arrayrecord")
    return folder


@pytest.fixture(scope="module")
def dataset(tiny, tmp_path_factory) -> Dataset:
    return open_dataset(write(tmp_path_factory.mktemp("corrupt") / "data", tiny), verify="sizes")


@pytest.fixture(scope="module")
def tolerant(tiny) -> Config:
    """Four of seven records may be corrupt."""
    return with_train(tiny, max_corrupt_share=0.6)


def read(loader: Loader, steps: int) -> list:
    with closing(loader):
        return list(itertools.islice(loader, steps))


def test_the_record_at_the_same_place_an_epoch_later_stands_in(dataset, tolerant):
    order = sample_order(RECORDS, seed=5)
    found = [int(record) for batch in read(make_loader(dataset, tolerant, 4, 5), 8) for record in batch["sample_id"]]
    for number, record in enumerate(found):
        candidates = (order[number + epoch * RECORDS] for epoch in range(ATTEMPTS))
        assert record == next(candidate for candidate in candidates if candidate not in REASONS)
    assert found != [order[number] for number in range(32)]


@pytest.mark.parametrize("threads", [0, 2, 4])
def test_neither_threads_nor_processes_nor_a_stop_change_what_stands_in(dataset, tolerant, threads):
    whole = read(make_loader(dataset, with_train(tolerant, loader_threads=1), 4, 2), 6)
    config = with_train(tolerant, loader_threads=threads)
    for start in (0, 3):
        assert_same(read(make_loader(dataset, config, 4, 2, start_step=start), 6 - start), whole[start:])
    parts = [read(make_loader(dataset, config, 4, 2, process_index=index, process_count=2), 6) for index in (0, 1)]
    joined = [jax.tree.map(lambda *rows: np.concatenate(rows), *both) for both in zip(*parts, strict=True)]
    assert_same(joined, whole)


def test_every_corrupt_record_is_counted_and_logged_once_with_its_name_and_reason(dataset, tolerant, caplog):
    loader = make_loader(dataset, tolerant, 4, 0)
    with caplog.at_level(logging.WARNING, logger="con360av_jax"):
        read(loader, 14)
    assert set(loader.corrupt) == set(REASONS)
    for record, reason in REASONS.items():
        place = f"record {record} (fake_{record:06d}/0/0), number 0 of samples-{record:05d}.arrayrecord: "
        assert loader.corrupt[record].startswith(place) and reason in loader.corrupt[record]
    logged = [entry.getMessage() for entry in caplog.records]
    assert sorted(line.partition(": ")[2] for line in logged) == sorted(loader.corrupt.values())
    assert sorted(line.partition(":")[0] for line in logged) == [
        f"corrupt record replaced by another one ({n} so far)" for n in (1, 2, 3, 4)
    ]


def test_a_run_keeps_what_it_left_out_once_also_when_it_goes_on(dataset, tolerant, tmp_path):
    loader = make_loader(dataset, tolerant, RECORDS, 0)
    read(loader, 1)
    CorruptRecordsLog(tmp_path).add(dict(list(loader.corrupt.items())[:2]))
    resumed = CorruptRecordsLog(tmp_path)
    resumed.add(loader.corrupt)
    resumed.add(loader.corrupt)
    assert len((tmp_path / "damaged-0.jsonl").read_text().splitlines()) == len(REASONS)
    # Another process met two of them as well.
    (tmp_path / "damaged-1.jsonl").write_text((tmp_path / "damaged-0.jsonl").read_text().splitlines()[0] + "\n")
    assert read_corrupt_records(tmp_path) == [loader.corrupt[record] for record in sorted(REASONS)]


def test_a_corrupt_index_does_not_hide_where_a_record_lies(tiny, tmp_path):
    folder = write(tmp_path / "data", tiny, damage=False)
    overwrite(folder / "samples-00002.arrayrecord")
    index = folder / "index.jsonl"
    index.write_bytes(b"\xff" * index.stat().st_size)
    loader = make_loader(open_dataset(folder, verify="sizes"), tiny, 4, 0)
    read(loader, 4)
    assert loader.corrupt[2].startswith("record 2, number 0 of samples-00002.arrayrecord: ")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_more_corrupt_records_than_the_share_stop_the_loader_and_are_named(dataset, tiny, share):
    allowed = max(1, int(share * RECORDS)) if share else 0
    loader = make_loader(dataset, with_train(tiny, max_corrupt_share=share, loader_threads=0), 4, 0)
    said = rf"{allowed + 1} of 7 records are corrupt, more than max_corrupt_share={share:g} allows: "
    with pytest.raises(DatasetError, match=said) as caught, closing(loader):
        for _ in range(10):
            next(loader)
    assert len(loader.corrupt) == allowed + 1
    assert all(text in str(caught.value) for text in loader.corrupt.values())


def test_one_corrupt_record_of_a_small_dataset_does_not_stop_the_loader(tiny, tmp_path):
    folder = write(tmp_path / "data", tiny, damage=False)
    overwrite(folder / "samples-00006.arrayrecord")
    loader = make_loader(open_dataset(folder, verify="sizes"), tiny, 4, 0)
    assert 6 not in {int(record) for batch in read(loader, 8) for record in batch["sample_id"]}
    assert set(loader.corrupt) == {6}


def test_a_dataset_without_any_sound_record_stops_the_loader(tiny, tmp_path):
    folder = write(tmp_path / "data", tiny, damage=False, records=1)
    overwrite(folder / "samples-00000.arrayrecord")
    loader = make_loader(open_dataset(folder, verify="sizes"), tiny, 1, 0)
    with (
        pytest.raises(DatasetError, match=f"{ATTEMPTS} records in a row are corrupt, among them record 0"),
        closing(loader),
    ):
        next(loader)


def test_the_policy_stop_ends_at_the_first_corrupt_record_with_its_name(dataset, tiny):
    loader = make_loader(dataset, with_train(tiny, on_corrupt="stop", max_corrupt_share=1.0), RECORDS, 0)
    with pytest.raises(DatasetError, match="record [1345] is corrupt|field of view"), closing(loader):
        next(loader)
    assert not loader.corrupt


def test_a_record_that_can_be_read_at_the_second_try_is_used(dataset):
    failures = {0: 1, 2: 2}

    def make(record: int) -> int:
        if failures.get(record, 0):
            failures[record] -= 1
            raise DatasetError(f"record {record} is away")
        return record

    order = sample_order(RECORDS, seed=0)
    records = IntactRecords(dataset, order, make, "skip", 0.5)
    for number in range(RECORDS):
        if order[number] != 2:
            assert records[number] == order[number]
        else:
            assert records[number] != 2
    assert set(records.corrupt) == {2}


@pytest.mark.parametrize(("setting", "value"), [("max_corrupt_share", 1.5), ("loader_threads", -1)])
def test_settings_that_mean_nothing_are_refused(tiny, setting, value):
    with pytest.raises(ConfigError, match=f"{setting}={value}"):
        with_train(tiny, **{setting: value})
