"""Dataset folders: read back as written, complete or not there, and every kind of corruption is named."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from con360av_jax.data.fake import fake_sample
from con360av_jax.data.schema import (
    ENCODED_FIELDS,
    MAP_FIELDS,
    SCHEMA_VERSION,
    Manifest,
    check_matches,
)
from con360av_jax.data.source import open_dataset
from con360av_jax.data.writer import write_dataset
from con360av_jax.errors import DatasetError
from tests.support.damage import flip, overwrite
from tests.support.flawed_records import equal, named, with_array
from tests.support.tiny_world import with_part

FIELDS = ENCODED_FIELDS + MAP_FIELDS
RECORDS = 5


@pytest.fixture(scope="module")
def samples(tiny):
    fakes = [fake_sample(tiny, number, fields=FIELDS) for number in range(RECORDS)]
    return [named(fake, f"clip_{number // 2}", number // 2, number % 2) for number, fake in enumerate(fakes)]


@pytest.fixture
def write(tiny, samples, tmp_path):
    def write(name: str = "data", **changes) -> Path:
        arguments = {"samples": samples, "config": tiny, "fields": FIELDS, "rejected": [], "settings": {}} | changes
        write_dataset(tmp_path / name, shard_records=2, **arguments)
        return tmp_path / name

    return write


def edit_manifest(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def test_what_is_written_is_read_back_by_position_and_by_name(tiny, samples, write):
    rejected = [{"clip": "bad", "reason": "no sound"}]
    folder = write(rejected=rejected, settings={"saliency": "contrast"})
    dataset = open_dataset(folder)
    assert len(dataset) == RECORDS
    assert all(equal(read, sample) for read, sample in zip(dataset, samples, strict=True))
    assert equal(dataset[4], samples[4]) and equal(dataset[np.int64(1)], samples[1])
    assert dataset.keys == tuple(sample.key for sample in samples)
    assert [entry.caption for entry in dataset.samples] == [sample.caption for sample in samples]
    assert equal(dataset.find(), samples[0])
    assert equal(dataset.find(clip="clip_1", viewpoint=1), samples[3])
    assert equal(dataset.find(segment=2, viewpoint=0), samples[4])
    assert equal(dataset.find(key="clip_0/0/1"), samples[1])
    assert dataset.positions(viewpoint=1) == (1, 3)
    assert dataset.config == tiny
    assert [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()] == rejected
    manifest = dataset.manifest
    assert (manifest.name, manifest.samples, manifest.clips, manifest.rejected) == ("data", RECORDS, 3, 1)
    assert [shard.records for shard in manifest.shards] == [2, 2, 1]
    assert (manifest.fields, manifest.settings) == (FIELDS, {"saliency": "contrast"})
    assert manifest.schema_version == SCHEMA_VERSION


def test_records_outside_the_dataset_are_refused(write):
    dataset = open_dataset(write())
    for position in (-1, RECORDS):
        with pytest.raises(IndexError, match=f"record {position} of {RECORDS}"):
            dataset[position]
    with pytest.raises(DatasetError, match="no sample with clip=clip_9, segment=0; it holds 5, .*clip_0/0/0"):
        dataset.find(clip="clip_9", segment=0)


def test_writing_the_same_samples_twice_gives_identical_folders(write):
    one, other = write("one/data"), write("other/data")
    assert digests(one) == digests(other)
    assert len(digests(one)) == 3 + 3  # shards; manifest, index, rejected


def test_the_manifest_survives_json(write):
    manifest = open_dataset(write()).manifest
    assert Manifest.from_json(manifest.to_json(), "here") == manifest


def test_a_record_starts_a_group_of_its_own(write):
    reader = ArrayRecordReader(str(write() / "samples-00000.arrayrecord"))
    assert "group_size:1," in reader.writer_options_string()
    reader.close()


def test_an_existing_folder_is_left_alone_unless_empty(write, tmp_path):
    (tmp_path / "data").mkdir()
    before = digests(write())
    with pytest.raises(DatasetError, match="exists and is not empty"):
        write()
    assert digests(tmp_path / "data") == before


def test_a_failed_write_leaves_nothing_behind(samples, write, tmp_path):
    broken = with_array(samples[4], "viewpoint", samples[4].arrays["viewpoint"] * np.float32("nan"))
    with pytest.raises(DatasetError, match="NaN"):
        write(samples=[*samples[:4], broken])
    with pytest.raises(DatasetError, match="two samples are called clip_0/0/1"):
        write(samples=[*samples, samples[1]])
    with pytest.raises(DatasetError, match="2 were rejected, the first because: no sound"):
        write(samples=[], rejected=[{"reason": "no sound"}, {"reason": "too short"}])
    with pytest.raises(DatasetError, match="at least one record"):
        write_dataset(tmp_path / "data", samples, open_dataset(write("good")).config, FIELDS, [], {}, shard_records=0)
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_what_an_interrupted_run_left_is_replaced(write, tmp_path):
    (tmp_path / "data.partial").mkdir()
    (tmp_path / "data.partial" / "samples-00000.arrayrecord").write_bytes(b"half")
    assert len(open_dataset(write())) == RECORDS
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_rejections_found_while_writing_are_kept(samples, write):
    rejected: list[dict[str, object]] = []

    def stream():
        yield from samples
        rejected.append({"clip": "late", "reason": "corrupt"})

    assert open_dataset(write(samples=stream(), rejected=rejected)).manifest.rejected == 1


def test_missing_folders_and_manifests_are_named(write, tmp_path):
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        open_dataset(tmp_path / "nowhere")
    folder = write()
    (folder / "manifest.json").unlink()
    with pytest.raises(DatasetError, match=r"has no manifest\.json"):
        open_dataset(folder)


def test_a_manifest_that_is_not_json_or_corrupt_is_named(write):
    folder = write()
    edit_manifest(folder, samples="five", colour="red")
    with pytest.raises(
        DatasetError, match=r"manifest\.json is corrupt: samples: 'five' is str.*unknown setting colour"
    ):
        open_dataset(folder)
    for content in (b"{", b"\xff\xfe"):
        (folder / "manifest.json").write_bytes(content)
        with pytest.raises(DatasetError, match=r"manifest\.json is not JSON"):
            open_dataset(folder)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, None])
def test_another_schema_version_names_both(write, version):
    folder = write()
    edit_manifest(folder, schema_version=version)
    with pytest.raises(DatasetError, match=f"schema version {version}, this version reads {SCHEMA_VERSION}"):
        open_dataset(folder)


@pytest.mark.parametrize("verify", ["sizes", "hashes"])
@pytest.mark.parametrize("file", ["samples-00001.arrayrecord", "index.jsonl"])
def test_missing_and_truncated_files_are_named(write, file, verify):
    path = write() / file
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DatasetError, match=f"{file} is truncated"):
        open_dataset(path.parent, verify=verify)
    path.unlink()
    with pytest.raises(DatasetError, match=f"{file} is missing"):
        open_dataset(path.parent, verify=verify)


def test_an_altered_shard_is_named_by_its_hash(write):
    path = write() / "samples-00001.arrayrecord"
    flip(path)
    with pytest.raises(DatasetError, match=r"samples-00001\.arrayrecord is altered: its sha256"):
        open_dataset(path.parent)


def test_an_altered_record_is_named_when_read_if_hashes_were_not_checked(write):
    path = write() / "samples-00001.arrayrecord"
    overwrite(path)
    dataset = open_dataset(path.parent, verify="sizes")
    with pytest.raises(DatasetError, match="record 2 is corrupt"):
        dataset[2]


def test_a_shard_that_is_no_arrayrecord_is_named(write):
    path = write() / "samples-00001.arrayrecord"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DatasetError, match=r"samples-00001\.arrayrecord is not an ArrayRecord file"):
        open_dataset(path.parent, verify="sizes")


def test_a_wrong_count_is_named(write):
    folder = write()
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    edit_manifest(folder, samples=RECORDS + 1)
    with pytest.raises(DatasetError, match="counts 6 samples, but its shards hold 5"):
        open_dataset(folder)
    shards[0]["records"] = 3
    edit_manifest(folder, shards=shards)
    with pytest.raises(DatasetError, match=r"samples-00000\.arrayrecord holds 2 records, the manifest says 3"):
        open_dataset(folder)


def test_records_that_contradict_the_manifest_are_named(write):
    folder = write()
    edit_manifest(folder, fields=[*FIELDS, "mel"])
    with pytest.raises(DatasetError, match="record 0 is corrupt: .*lacks the field 'mel'"):
        open_dataset(folder)[0]


def test_a_dataset_of_other_sizes_does_not_match_a_config(tiny, write):
    manifest = open_dataset(write()).manifest
    check_matches(manifest, tiny)
    check_matches(manifest, dataclasses.replace(with_part(tiny, "clip", hop_seconds=2), name="other"))
    latent = r"audio_latent_mean is float32\[25, 8, 8\] in the dataset, float32\[50, 16, 8\]"
    for path, changes, said in [
        ("clip", {"height": 32}, "clip.height is 16 in the dataset, 32 in the config"),
        ("clip", {"frames_per_second": 8}, "clip.frames_per_second is 4"),
        ("mel", {"low_hz": 50.0}, "mel.low_hz is 0.0 in the dataset, 50.0"),
        ("model.vae.video", {"scaling_factor": 0.18215}, "video.scaling_factor is 1.0 in the dataset, 0.18215"),
        ("model.vae.audio", {"widths": (8, 8)}, latent),
    ]:
        with pytest.raises(DatasetError, match=said):
            check_matches(manifest, with_part(tiny, path, **changes))


def test_a_config_of_another_program_version_is_named(write):
    folder = write()
    config = json.loads((folder / "manifest.json").read_text())["config"]
    edit_manifest(folder, config=config | {"smell": True})
    with pytest.raises(DatasetError, match="'data' has a config that this version cannot read: unknown setting smell"):
        open_dataset(folder)
