"""A dataset written with interruptions equals one written without, byte for byte; recordings can be added later."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from con360av_jax.config.settings import Config
from con360av_jax.data.fake import fake_sample
from con360av_jax.data.schema import MAP_FIELDS, Manifest, Sample
from con360av_jax.data.source import open_dataset
from con360av_jax.data.writer import DatasetWriter
from con360av_jax.errors import DatasetError
from tests.support.flawed_records import named
from tests.support.tiny_world import files_below, with_part

FIELDS = ("mel", *MAP_FIELDS)
SETTINGS = {"viewpoints": 2, "captions": "file"}
CLIPS = ("a", "b", "c", "d")


class Killed(BaseException):
    """Stop of a writer that no code under test catches."""


def samples_of(clip: str, config: Config) -> Iterator[Sample]:
    number = CLIPS.index(clip)
    for viewpoint in range(3):
        yield named(fake_sample(config, 10 * number + viewpoint, fields=FIELDS), clip, 0, viewpoint)


def write(folder: Path, config: Config, clips: Sequence[str], kill_at: int = -1, **options) -> int:
    """Adds what is missing of `clips`, killed before sample `kill_at`; returns the number of samples made."""
    writer, made = DatasetWriter(folder, config, FIELDS, SETTINGS, shard_records=4, **options), 0
    for clip in clips:
        if clip in writer.finished:
            continue
        for sample in samples_of(clip, config):
            if made == kill_at:
                raise Killed
            writer.add(sample)
            made += 1
        writer.end_clip(clip, [{"file": clip, "reason": "segment 1 is silent"}])
    writer.finish([{"file": "z", "reason": "no video"}])
    return made


@pytest.fixture(scope="module")
def straight(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "data"
    assert write(folder, tiny, CLIPS) == 12
    return folder


def test_samples_come_back_in_order_with_their_ledger(straight: Path, tiny: Config):
    dataset = open_dataset(straight)
    assert dataset.keys == tuple(f"{clip}/0/{viewpoint}" for clip in CLIPS for viewpoint in range(3))
    assert [shard.records for shard in dataset.manifest.shards] == [4, 4, 4]
    assert dataset.manifest.rejected == 5
    assert {path.name for path in straight.iterdir()} == {
        "manifest.json", "index.jsonl", "rejected.jsonl", *(f"samples-0000{n}.arrayrecord" for n in range(3))
    }  # fmt: skip
    assert not straight.with_name("data.partial").exists()


@pytest.mark.parametrize("kill_at", range(12))
def test_a_killed_writing_goes_on_to_the_same_bytes(kill_at: int, straight: Path, tiny: Config, tmp_path: Path):
    folder = tmp_path / "data"
    with pytest.raises(Killed):
        write(folder, tiny, CLIPS, kill_at)
    assert not folder.exists()
    again = write(folder, tiny, CLIPS)
    # Clips whose samples are all in finished shards, and whose end was seen by one, are not made again.
    assert again == 12 - {0: 0, 1: 3, 2: 6}[min(kill_at // 4, 2)]
    assert files_below(folder) == files_below(straight)


def test_a_whole_dataset_that_only_wants_its_name_is_not_made_again(
    straight: Path, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, replace_file = tmp_path / "data", os.replace

    def killed(source: str | Path, target: str | Path) -> None:
        if Path(target) == folder:
            raise Killed
        replace_file(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", killed)
        write(folder, tiny, CLIPS)
    assert not folder.exists()
    assert write(folder, tiny, CLIPS) == 0
    assert files_below(folder) == files_below(straight)


@pytest.mark.parametrize(
    ("owner", "step"),
    [(DatasetWriter, "_publish"), (Manifest, "to_json"), (DatasetWriter, "_tidy"), (shutil, "rmtree")],
)
def test_being_killed_while_clips_join_a_dataset_loses_nothing(
    owner: object, step: str, straight: Path, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, whole = tmp_path / "stopped" / "data", tmp_path / "whole" / "data"
    for place in (folder, whole):
        write(place, tiny, CLIPS[:2])
    write(whole, tiny, CLIPS)

    def killed(*arguments: object, **options: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, step, killed)
        write(folder, tiny, CLIPS)
    assert set(open_dataset(folder).keys) >= {f"a/0/{viewpoint}" for viewpoint in range(3)}
    write(folder, tiny, CLIPS)
    assert files_below(folder) == files_below(whole)


def test_clips_added_later_get_shards_of_their_own(tiny: Config, tmp_path: Path):
    folder = tmp_path / "data"
    write(folder, tiny, CLIPS[:2])
    before = files_below(folder)
    assert write(folder, tiny, CLIPS) == 6
    after = files_below(folder)
    shards = [name for name in before if name.endswith(".arrayrecord")]
    assert len(shards) == 2 and all(after[name] == before[name] for name in shards)
    dataset = open_dataset(folder)
    assert dataset.keys == tuple(f"{clip}/0/{viewpoint}" for clip in CLIPS for viewpoint in range(3))
    assert dataset.manifest.rejected == 5  # "z" is named once, though it was left out twice
    assert [dataset[position].key for position in range(12)] == list(dataset.keys)
    assert write(folder, tiny, CLIPS) == 0
    assert files_below(folder) == after


def test_other_settings_never_join(tiny: Config, tmp_path: Path):
    folder = tmp_path / "data"
    with pytest.raises(Killed):
        write(folder, tiny, CLIPS, kill_at=5)
    for _ in ("begun", "whole"):
        with pytest.raises(DatasetError, match=r"with 1 other settings \(settings.viewpoints: 2 -> 3"):
            DatasetWriter(folder, tiny, FIELDS, {**SETTINGS, "viewpoints": 3}, 4)
        write(folder, tiny, CLIPS)
    with pytest.raises(DatasetError, match="config.clip.hop_seconds"):
        DatasetWriter(folder, with_part(tiny, "clip", hop_seconds=2), FIELDS, SETTINGS, 4)


def test_equal_keys_are_refused_also_across_shards(tiny: Config, tmp_path: Path):
    writer = DatasetWriter(tmp_path / "data", tiny, FIELDS, SETTINGS, shard_records=2)
    first, *others = (sample for clip in "ab" for sample in samples_of(clip, tiny))
    for sample in (first, *others):
        writer.add(sample)
    with pytest.raises(DatasetError, match="two samples are called a/0/0"):
        writer.add(first)
    writer.close()


def test_a_shard_that_is_cut_off_is_named(tiny: Config, tmp_path: Path):
    with pytest.raises(Killed):
        write(tmp_path / "data", tiny, CLIPS, kill_at=9)
    shard = tmp_path / "data.partial" / "samples-00001.arrayrecord"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"samples-00001.arrayrecord is missing or cut off: delete"):
        write(tmp_path / "data", tiny, CLIPS)
