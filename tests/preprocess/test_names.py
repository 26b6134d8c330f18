"""File names as people have them: none stops a run, and each stays the name of its clip."""

import csv
import json
import os
from pathlib import Path

import pytest

from con360av_jax.data.source import PREVIEWS, open_dataset, preview_name, read_record
from con360av_jax.errors import DatasetError
from con360av_jax.evaluate.selection import clip_name, recording_of_clip
from preprocess.cli import main
from preprocess.features.material import find_clips
from preprocess.running.outcomes import Outcomes
from tests.support.panorama_files import hiss, write_panorama

LONG = ("walking in the old town " * 20)[:247]
LONG_UMLAUTS = "ä" * 123
ODD = ("Lion walk 360 #vr", "line\u2028and\x85next", "-leading", "[bold] [red]", ":bug:", "a  b ", LONG, LONG_UMLAUTS)
NO_UTF_8 = os.fsdecode(b"caf\xe9.mkv")


def run(videos: Path, out: Path, config_path: Path) -> int:
    options = ("--viewpoints", "1", "--previews", "--workers", "0", "--config", str(config_path))
    return main(["run", str(videos), "--out", str(out), *options])


def test_odd_names_are_taken_and_one_that_is_no_text_is_one_line(config_path: Path, tmp_path: Path, capfd):
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    good = write_panorama(tmp_path / "good.mkv", times=(0, 0.5, 0.9), sound=hiss(1.0))
    for name in (*ODD, NO_UTF_8.removesuffix(".mkv")):
        (videos / f"{name}.mkv").write_bytes(good.read_bytes())
    assert run(videos, out, config_path) == 0
    assert open_dataset(out).keys == tuple(f"{name}/0/0" for name in sorted(ODD))
    # Read again when recordings are added: index and ledger are cut at line feeds alone.
    (videos / "zoo.mkv").write_bytes(good.read_bytes())
    assert run(videos, out, config_path) == 0
    dataset = open_dataset(out)
    assert sorted(dataset.keys) == sorted(f"{name}/0/0" for name in (*ODD, "zoo"))
    (line,) = map(json.loads, (out / "rejected.jsonl").read_text(encoding="utf-8").split("\n")[:-1])
    shown = f"{videos}/caf\\xe9.mkv"
    assert line == {"file": shown, "stage": "standardise", "reason": f"{shown}: its name is not UTF-8; rename it"}
    assert all((out / PREVIEWS / preview_name(name, 0)).is_file() for name in ODD)
    for name in ODD:
        assert read_record(f"{out}#{name}/0/0").clip == name
    assert main(["list", str(videos), "--out", str(tmp_path / "list.csv")]) == 0
    with (tmp_path / "list.csv").open(newline="", encoding="utf-8") as file:
        problems = {row["clip"]: row["problem"] for row in csv.DictReader(file)}
    assert {name for name, problem in problems.items() if problem} == {"caf\\xe9"}
    assert "Traceback" not in "".join(capfd.readouterr())


def test_features_leave_a_name_out_that_is_no_text_also_if_it_is_given_alone(tmp_path: Path):
    for name in (NO_UTF_8, "a.mkv"):
        (tmp_path / name).touch()
    for place, taken in ((tmp_path, ["a"]), (tmp_path / NO_UTF_8, [])):
        sources, rejected = find_clips(place)
        assert [source.clip for source in sources] == taken
        assert [line["file"] for line in rejected] == ["caf\\xe9.mkv"]


def test_a_record_is_found_where_dataset_and_key_hold_the_mark(config_path: Path, tmp_path: Path):
    folder = tmp_path / "set #1"
    write_panorama(tmp_path / "walk #vr.mkv", times=(0, 0.5, 0.9), sound=hiss(1.0))
    assert run(tmp_path / "walk #vr.mkv", folder, config_path) == 0
    assert read_record(f"{folder}#walk #vr/0/0").key == "walk #vr/0/0"
    with pytest.raises(DatasetError, match=r"has no record 'vr/0/0'; it holds 1, the first of them walk #vr/0/0"):
        read_record(f"{folder}#vr/0/0")
    with pytest.raises(DatasetError, match="none does not exist"):
        read_record(f"{tmp_path}/none#a#b/0/0")


def test_files_of_long_names_are_short_and_apart_and_say_their_recording(tmp_path: Path):
    other = LONG[:-1] + "x"
    outcomes = Outcomes(tmp_path)
    paths = [outcomes.path(f"{name}_{number}") for name in (LONG, other) for number in (0, 12)]
    clips = [clip_name(f"{name}/{number}/1") for name in (LONG, other) for number in (0, 12)]
    for names in ([path.name for path in paths], clips):
        assert len(set(names)) == 4
        assert max(len(name.encode()) for name in names) < 230
    assert [recording_of_clip(clip) for clip in clips[::2]] == [recording_of_clip(clip) for clip in clips[1::2]]
    assert len({recording_of_clip(clip) for clip in clips}) == 2
    assert clip_name("walk/0/1") == "walk_0_1"
