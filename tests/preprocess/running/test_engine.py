"""Datasets are the same bytes whatever runs the stages, however often it is stopped, and wherever a worker dies."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.data.source import open_dataset
from con360av_jax.errors import ConfigError, DatasetError
from con360av_jax.media.files import write_clip
from preprocess.cli import main
from preprocess.inputs import search
from preprocess.running import outcomes, pipeline
from preprocess.running.assemble import Made, make_dataset
from preprocess.running.engine import Engine
from preprocess.running.outcomes import Outcomes
from preprocess.running.pipeline import Pipeline
from preprocess.stages.segment import Segment, Window
from tests.support.killed_command import run_killed
from tests.support.tiny_world import files_below

RATE = 16_000
HERE = Engine(workers=0)


def clip_file(path: Path, seed: int, seconds: float = 2.0) -> Path:
    random = np.random.default_rng(seed)
    picture = np.full((32, 64, 3), 60 + 20 * seed, np.uint8)
    picture[8:16, 8 * seed : 8 * seed + 10] = 230
    sound = random.integers(-9000, 9000, (round(seconds * RATE), 1)).astype(np.int16)
    write_clip(path, np.repeat(picture[None], round(seconds * 8), axis=0), 8, sound, RATE, lossless_audio=True)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of two segments, and one file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(4):
        clip_file(folder / f"clip{seed}.mp4", seed)
    (folder / "clip2bad.mp4").write_bytes(b"no video")
    return folder


def command(videos: Path, out: Path, config_path: Path, *more: str) -> list[str]:
    sizes = ("--viewpoints", "2", "--shard-records", "3", "--config", str(config_path), "--previews")
    return ["run", str(videos), "--out", str(out), *sizes, *(more or ("--workers", "0"))]


@pytest.fixture(scope="module")
def whole(videos: Path, config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "data"
    assert main(command(videos, out, config_path)) == 0
    return files_below(out)


def made(chain: Pipeline, out: Path, videos: Path, engine: Engine = HERE) -> Made:
    return make_dataset(out, chain, search([videos]).inputs, {}, engine)


def test_two_workers_of_ray_write_the_same_files_as_this_process_alone(videos, config_path, whole, tmp_path):
    pytest.importorskip("ray")
    arguments = command(videos, tmp_path / "data", config_path, "--workers", "2")
    ran = subprocess.run([sys.executable, "-m", "preprocess", *arguments], capture_output=True, text=True, cwd=tmp_path,
                         env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert files_below(tmp_path / "data") == whole
    assert "1 left out (standardise 1)" in ran.stderr


# Previews and segments, then shards with what they hold, then index, ledger and manifest.
@pytest.mark.parametrize("moment", [1, 4, 9, 13, 19, 23])
def test_a_killed_run_goes_on_and_ends_with_the_same_files(videos, config_path, whole, tmp_path, moment, monkeypatch):
    arguments = command(videos, tmp_path / "data", config_path)
    run_killed("os.replace", moment, arguments)
    assert not (tmp_path / "data").exists()
    stored = {
        path.name.removesuffix(outcomes.SUFFIX) for path in tmp_path.glob(f"data.partial/scratch/*{outcomes.SUFFIX}")
    }
    decoded: list[Window] = []
    real = pipeline.Cutter.__call__
    monkeypatch.setattr(pipeline.Cutter, "__call__", lambda self, window: decoded.append(window) or real(self, window))
    assert main(arguments) == 0
    assert files_below(tmp_path / "data") == whole
    again = {f"{window.clip.name}_{window.index}" for window in decoded}
    assert not again & stored
    assert len(decoded) == len(again) <= (8 if moment == 1 else 7)


def test_running_it_once_more_changes_and_decodes_nothing(videos, config_path, whole, tmp_path, monkeypatch):
    assert main(command(videos, tmp_path / "data", config_path)) == 0
    monkeypatch.setattr(pipeline.Cutter, "__call__", lambda *_: pytest.fail("decoded again"))
    assert main(command(videos, tmp_path / "data", config_path)) == 0
    assert files_below(tmp_path / "data") == whole


def test_videos_added_later_add_shards_and_a_mended_file_leaves_the_ledger(videos, config_path, tmp_path):
    folder = shutil.copytree(videos, tmp_path / "videos")
    arguments = command(folder, tmp_path / "data", config_path)
    assert main(arguments) == 0
    before = files_below(tmp_path / "data")
    clip_file(folder / "clip2bad.mp4", 5)
    clip_file(folder / "later.mp4", 6)
    (folder / "never.mp4").write_bytes(b"nor this")
    assert main(arguments) == 0
    after, dataset = files_below(tmp_path / "data"), open_dataset(tmp_path / "data")
    assert dataset.manifest.clips == 6
    shards = [name for name in before if name.endswith(".arrayrecord")]
    assert {name: after[name] for name in shards} == {name: before[name] for name in shards}
    assert [len(dataset.positions(clip=clip)) for clip in ("clip0", "clip2bad", "later")] == [4, 4, 4]
    assert b"never.mp4" in after["rejected.jsonl"] and b"clip2bad" not in after["rejected.jsonl"]
    assert sum(name.startswith("previews/") for name in after) == 12


def test_a_file_that_kills_its_worker_is_rejected_and_the_others_go_on(chain, videos, tmp_path):
    pytest.importorskip("ray")

    def deadly(segment: Segment, tracks) -> str:
        if segment.window.clip.name == "clip1":
            os._exit(1)
        return "all is well"

    result = made(replace(chain, captions=deadly), tmp_path / "data", videos, Engine(workers=1))
    assert result.ledger.segments == {"clip0": 2, "clip2": 2, "clip3": 2}
    reasons = {Path(str(line["file"])).name: line["stage"] for line in result.ledger.rejected}
    assert reasons == {"clip1.mp4": "worker", "clip2bad.mp4": "standardise"}


def test_whatever_a_file_does_to_a_library_costs_one_segment(chain, videos, tmp_path):
    def picky(segment: Segment, tracks) -> str:
        if segment.name == "clip1_1":
            raise ZeroDivisionError("from inside a library")
        return "all is well"

    result = made(replace(chain, captions=picky), tmp_path / "data", videos)
    assert result.manifest.samples == 7
    (line,) = [line for line in result.ledger.rejected if "clip1" in str(line["file"])]
    assert (line["stage"], line["segment"]) == ("captions", 1)
    assert "ZeroDivisionError: from inside a library" in str(line["reason"])


def test_a_folder_that_cannot_be_written_to_ends_the_run(chain, videos, tmp_path, monkeypatch):
    real = os.replace

    def full(source: Path, target: Path) -> None:
        if target.suffix == outcomes.SUFFIX:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DatasetError, match="No space left on device.*make room"):
        made(chain, tmp_path / "data", videos)


@pytest.mark.parametrize(("most", "code"), [("0", 1), ("1", 0)])
def test_more_rejections_than_asked_for_are_in_the_exit_code(videos, config_path, tmp_path, most, code):
    arguments = command(videos, tmp_path / "data", config_path, "--workers", "0", "--max-rejected", most)
    assert main(arguments) == code
    assert open_dataset(tmp_path / "data").manifest.rejected == 1
    # What is in the ledger already counts, whichever run put it there.
    later = clip_file(tmp_path / "later.mp4", 5)
    assert main([arguments[0], str(later), *arguments[2:]]) == code


def test_other_settings_do_not_join_a_dataset(videos, config_path, tmp_path, capfd):
    assert main(command(videos, tmp_path / "data", config_path)) == 0
    assert main([*command(videos, tmp_path / "data", config_path), "--moving"]) == 2
    assert "settings.moving: False -> True" in capfd.readouterr().err


def test_a_stored_segment_that_was_cut_off_is_made_again(tmp_path):
    store = Outcomes(tmp_path)
    (tmp_path / f"a_0{outcomes.SUFFIX}").write_bytes(b"cut off")
    assert not store.holds("a_0") and not store.holds("a_1")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"workers": -1}, "--workers is -1"), ({"workers": 0, "address": "auto"}, "without Ray"),
     ({"workers": 1, "gpus_per_stage": -0.5}, "--gpus-per-stage is -0.5")],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        Engine(**settings)


def test_every_input_counts_once(chain, videos, tmp_path):
    counted: Counter[str] = Counter()
    told: list[int] = []
    make_dataset(
        tmp_path / "data", chain, search([videos]).inputs, {}, HERE, begin=told.append,
        done=lambda given: counted.update([given.name]),
    )  # fmt: skip
    assert told == [5] and set(counted.values()) == {1} and len(counted) == 5
