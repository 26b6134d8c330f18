"""Where inputs come from: CSV files, the split by source video, the published split, and `list`, which writes a CSV."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from con360av_jax.errors import ConfigError, MediaError
from preprocess.commands.listing import List
from preprocess.inputs import Leak, leak, search, split_of
from preprocess.listing import COLUMNS
from tests.support.panorama_files import hiss, write_panorama

PUBLISHED = {"train": ("walk_0", "walk_10", "sea_5", "gone_1"), "test": ("walk_20", "park_0", "lost_2")}


def published_lists(folder: Path) -> Path:
    folder.mkdir()
    for part, names in PUBLISHED.items():
        (folder / f"{part}.txt").write_text("\n".join(names))
    return folder


def touched(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / f"{name}.mp4").touch()
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_csv_names_files_relative_to_itself_whether_they_exist_or_not(tmp_path: Path):
    table = tmp_path / "clips.csv"
    table.write_text("\ufefffile,clip,source,split,remark\nin/a_10.mp4,,,,\n/far/b.mp4,first,film,test,nice\n", "utf-8")
    one, two = search([table]).inputs
    assert (one.path, one.name, one.source, one.split) == (tmp_path / "in/a_10.mp4", "a_10", "a", split_of("a_10"))
    assert (two.path, two.name, two.source, two.split) == (Path("/far/b.mp4"), "first", "film", "test")
    assert search([table], split="test").inputs == (two,)
    listed = tmp_path / "list.txt"
    listed.write_text("first\n")
    assert search([table], listed=listed).inputs == (two,)


def test_a_file_that_several_places_give_is_used_once_with_what_the_first_says(tmp_path: Path):
    folder = touched(tmp_path / "in", "a", "b")
    table = tmp_path / "clips.csv"
    table.write_text("file,split\nin/b.mp4,test\nin/b.mp4,train\n")
    found = search([table, folder, folder / "a.mp4"]).inputs
    assert [(given.name, given.split) for given in found] == [("b", "test"), ("a", split_of("a"))]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no column 'file'"),
        ("path\na.mp4\n", "no column 'file'"),
        ("file\n", "holds no rows"),
        ("file,split\na.mp4,train\nb.mp4,half\n", "line 3 has split 'half'"),
        ("file,split\n,train\n", "line 2 names no file"),
        ("file\na,b.mp4\n", "line 2 has more cells"),
        ('file\n"a.mp4\n', "cannot be read as a CSV"),
        (b"file\n\xff\xfe.mp4\n", "is not text in UTF-8 .*; save it as UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_used_names_its_line(tmp_path: Path, text: str | bytes, reason: str):
    table = tmp_path / "clips.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(MediaError, match=reason):
        search([table])


def test_another_seed_divides_the_same_videos_differently_and_each_seed_always_alike():
    names = [f"video{number}_0" for number in range(2000)]
    divisions = {seed: tuple(split_of(name, seed) for name in names) for seed in (0, 1, 2)}
    for seed, division in divisions.items():
        assert Counter(division)["validation"] / len(names) == pytest.approx(0.15, abs=0.03)
        assert division == tuple(split_of(name, seed) for name in names)
    assert len(set(divisions.values())) == 3
    # Known values: datasets made before must not change their split.
    held_out = {seed: [number for number in range(12) if divisions[seed][number] == "validation"] for seed in (0, 1)}
    assert held_out == {0: [0, 3, 8], 1: [1, 3, 4, 10]}


def test_the_published_split_is_taken_as_it_is_and_differences_are_counted(tmp_path: Path):
    videos = touched(tmp_path / "videos", "walk_0", "walk_10", "walk_20", "park_0", "sea_5", "extra_0")
    lists = published_lists(tmp_path / "lists")
    found = search([videos], published=lists)
    assert {given.name: given.split for given in found.inputs} == {
        "extra_0": "",
        "park_0": "test",
        "sea_5": "train",
        "walk_0": "train",
        "walk_10": "train",
        "walk_20": "test",
    }
    assert (found.absent, found.unlisted) == (2, 1)
    assert [given.name for given in search([videos], "train", published=lists).inputs] == ["sea_5", "walk_0", "walk_10"]
    test = search([videos], "test", published=lists).inputs
    assert [given.name for given in test] == ["park_0", "walk_20"]
    assert search([videos], "validation", published=lists).inputs == test
    assert leak(found.inputs) == Leak(clips=1, held_out=2, sources=1, held_out_sources=2)


@pytest.mark.parametrize(
    "content",
    [
        b"Old town walk\nmill\ncafe\xcc\x81.mp4\n",
        b"\xef\xbb\xbfOld town walk\r\nmill.mp4\r\ncaf\xc3\xa9\r\n",
        "\ufeff Old town walk \n\nmill\ncafé".encode("utf-16-le"),
    ],
)
def test_a_list_of_clips_has_one_name_per_line_however_it_was_saved(tmp_path: Path, content: bytes):
    videos = touched(tmp_path / "videos", "Old town walk", "lake", "mill", "café")
    listed = tmp_path / "list.txt"
    listed.write_bytes(content)
    found = search([videos], listed=listed)
    assert [given.name for given in found.inputs] == ["Old town walk", "café", "mill"]
    assert found.absent_names == ()


def test_names_of_lists_that_have_no_file_are_counted_and_named(tmp_path: Path, capsys):
    videos = touched(tmp_path / "videos", "mill")
    listed = tmp_path / "list.txt"
    listed.write_text("mill\nOld town\nlake\n")
    List(videos=(videos,), out=tmp_path / "clips.csv", split_list=listed).execute()
    assert "2 names in lists have no file: Old town, lake" in " ".join(capsys.readouterr().out.split())
    listed.write_text("Old town\n")
    with pytest.raises(MediaError, match="the list names Old town, of which there is no file"):
        search([videos], listed=listed)
    listed.write_bytes("Möwe\n".encode("cp1252"))
    with pytest.raises(MediaError, match="list.txt: is not text in UTF-8 .* save it as UTF-8"):
        search([videos], listed=listed)


def test_published_lists_that_are_missing_or_contradict_each_other_say_so(tmp_path: Path):
    videos = touched(tmp_path / "videos", "walk_0")
    with pytest.raises(MediaError, match=r"train\.txt"):
        search([videos], published=tmp_path)
    lists = published_lists(tmp_path / "lists")
    (lists / "test.txt").write_text("walk_0\n")
    with pytest.raises(MediaError, match="'walk_0' is in both"):
        search([videos], published=lists)


@pytest.mark.parametrize("seed", [0, 7])
def test_a_split_by_source_video_never_leaks(tmp_path: Path, seed: int):
    names = [f"video{video}_{start}" for video in range(40) for start in (0, 10, 20)]
    found = search([touched(tmp_path / "videos", *names)], seed=seed).inputs
    assert {given.split for given in found} == {"train", "validation"}
    shared = leak(found)
    assert (shared.clips, shared.sources) == (0, 0)
    assert shared.held_out == 3 * shared.held_out_sources > 0


def test_list_writes_what_every_file_is_and_its_csv_can_be_given_back(tmp_path: Path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    write_panorama(videos / "walk_0.mkv", sound=hiss(channels=2), layout="stereo")
    write_panorama(videos / "walk_20.mkv")
    (videos / "park_0.mp4").write_text("no video")
    lists = published_lists(tmp_path / "lists")
    out = tmp_path / "clips.csv"
    List(videos=(videos,), out=out, published_split=lists).execute()
    park, walk, mute = rows_of(out)
    assert tuple(walk) == COLUMNS
    assert walk == {
        "file": "videos/walk_0.mkv",
        "clip": "walk_0",
        "source": "walk",
        "split": "train",
        "seconds": "2.0",
        "width": "64",
        "height": "32",
        "frames_per_second": "8.0",
        "video_codec": "h264",
        "projection": "",
        "stereo": "",
        "channels": "2",
        "layout": "2 channels",
        "sample_rate": "16000",
        "sound_codec": "pcm_f32le",
        "problem": "",
    }
    assert "not a media file" in park["problem"]
    assert "no audio stream" in mute["problem"]
    assert (mute["width"], mute["channels"]) == ("64", "")
    shown = " ".join(capsys.readouterr().out.split())
    for line in ("train │ 1 │ 1 │ 0", "test │ 2 │ 2 │ 2", "all │ 3 │ 2 │ 2"):
        assert line in shown
    assert "1 of 2 clips held out come from videos that also have clips in train (1 of 2 videos)" in shown
    assert "4 clips of the published split are not among the files" in shown
    List(videos=(out,), out=tmp_path / "again.csv").execute()
    assert (tmp_path / "again.csv").read_text() == out.read_text()


def test_list_overwrites_nothing_and_wants_a_csv(tmp_path: Path):
    videos = touched(tmp_path / "videos", "a")
    (tmp_path / "mine.csv").write_text("precious")
    for out, reason in (("mine.csv", "exists"), ("mine.txt", "ends in .csv")):
        with pytest.raises(ConfigError, match=reason):
            List(videos=(videos,), out=tmp_path / out).execute()
    assert (tmp_path / "mine.csv").read_text() == "precious"
    with pytest.raises(ConfigError, match="--max-clips is 0"):
        List(videos=(videos,), out=tmp_path / "new.csv", max_clips=0).execute()
    assert not (tmp_path / "new.csv").exists()
