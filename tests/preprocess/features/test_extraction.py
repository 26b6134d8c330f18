"""From files to feature folders: rows depend on the clip alone, stops change no byte, and what is left out is named."""

import json
import logging
import os
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import ConfigError, MediaError, MetricError
from con360av_jax.evaluate.features import open_features
from con360av_jax.media.files import write_clip
from preprocess.features.extraction import Extracted, extract
from preprocess.features.material import find_clips, read_clip
from preprocess.features.networks import Network
from tests.support.panorama_files import write_panorama
from tests.support.small_networks import looked_at, networks, pictures, sound, write_clips, write_flawed
from tests.support.tiny_world import files_below
from tests.support.turned_files import TURNS, corners, display_matrix, quarters

PARTS = ("saliency", "video_8", "sound")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "videos", 6)


def extracted(videos: Path, output: Path, some: tuple[Network, ...], batch: int = 4) -> Extracted:
    return extract(*find_clips(videos), some, output, batch)


def test_every_part_has_its_rows_by_clip(videos: Path, tmp_path: Path):
    found = extracted(videos, tmp_path / "features", networks()).features
    assert tuple(found) == PARTS
    assert [clip.clip for clip in found["sound"].clips] == [f"clip{number}" for number in range(6)]
    assert [clip.file for clip in found["sound"].clips] == [f"clip{number}.mp4" for number in range(6)]
    assert [clip.rows for clip in found["saliency"].clips] == [16] * 6
    assert found["saliency"].values.shape == (96, 2, 2)
    assert found["video_8"].values.shape == (6, 24)
    assert found["sound"].values.shape == (12, 2)
    assert len({row.tobytes() for row in found["saliency"].values}) == 96
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == sorted(PARTS)


def test_bytes_do_not_depend_on_batch_order_or_company(videos: Path, tmp_path: Path):
    expected = files_below(extracted(videos, tmp_path / "a", networks(), 4) and tmp_path / "a")
    for batch in (1, 5, 64):
        extracted(videos, tmp_path / f"by{batch}", networks(), batch)
        assert files_below(tmp_path / f"by{batch}") == expected
    turned = tmp_path / "turned"
    for number in (3, 0, 5, 1, 4, 2):
        (turned / str(9 - number)).mkdir(parents=True)
        shutil.copy(videos / f"clip{number}.mp4", turned / str(9 - number))
    found = extracted(turned, tmp_path / "b", networks())
    alone = extracted(videos / "clip3.mp4", tmp_path / "c", networks())
    for part in PARTS:
        values = open_features(tmp_path / "a" / part)
        np.testing.assert_array_equal(found.features[part].values, values.values)
        np.testing.assert_array_equal(alone.features[part].values, [*values][3])


def test_each_flaw_is_named_and_costs_only_the_parts_it_concerns(videos: Path, tmp_path: Path):
    folder = write_flawed(tmp_path / "flawed")
    for number in range(3):
        shutil.copy(videos / f"clip{number}.mp4", folder)
    found = extracted(folder, tmp_path / "features", networks())
    reasons = {
        part: {str(line["file"]): str(line["reason"]) for line in found.features[part].rejected} for part in PARTS
    }
    of_all = {
        "twice.wav": "twice.mp4 has the same name",
        "twice.mp4": "twice.wav has the same name",
        "no_media.mp4": "is not a media file",
        "cut_off.mp4": "",
        "gone.mp4": "is a link to a file that is not there",
    }
    of_video = {
        "other_rate.mp4": "has 25 frames per second, the protocol wants 8",
        "only_sound.wav": "has no video stream",
    }
    of_part = {
        "saliency": of_video | {"other_size.mp4": "its rows are 2x4, those of most clips 2x2"},
        "video_8": of_video | {"short.mp4": "has 4 frames, the protocol takes 8"},
        "sound": {
            "no_sound.mp4": "has no audio stream",
            "short.mp4": "is too short",
        },
    }
    for part, own in of_part.items():
        wanted = of_all | own
        assert set(reasons[part]) == set(wanted), part
        for file, begin in wanted.items():
            assert begin in reasons[part][file]
            assert str(tmp_path) not in reasons[part][file]
        clips = {clip.clip for clip in found.features[part].clips}
        # Silent and black clips have features: that of a target, evaluation leaves out; that of a model counts.
        assert clips >= {"clip0", "clip1", "clip2", "silent", "black"}
        assert not clips & {Path(file).stem for file in wanted}


def test_unevenly_spaced_frames_are_rejected(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from con360av_jax.media import containers

    real = containers.video_frames
    monkeypatch.setattr(
        containers, "video_frames", lambda *given: ((time + (time > 1) * 0.2, frame) for time, frame in real(*given))
    )
    with pytest.raises(MetricError, match="not spaced evenly at 8 per second"):
        extracted(videos, tmp_path / "features", networks()[:1])


def test_frames_are_those_that_a_player_shows(tmp_path: Path):
    matrix, undone = TURNS["90"]
    stored = np.ascontiguousarray(undone(corners()))
    path = tmp_path / "turned.mp4"
    write_panorama(path, pictures=[stored] * 16, matrix=display_matrix(*matrix), pixel_aspect=Fraction(2))
    (source,), _ = find_clips(path)
    video = read_clip(source, video=True, audio=False, frames_per_second=8).video
    assert video.shape == (16, 64, 64, 3)
    np.testing.assert_array_equal(quarters(video[0]), quarters(corners()))


def test_other_rates_are_taken_where_the_protocol_asks_for_none(tmp_path: Path):
    folder = write_flawed(tmp_path / "flawed")
    found = extracted(folder, tmp_path / "features", networks(frames_per_second=0.0)[:1])
    assert "other_rate" in {clip.clip for clip in found.features["saliency"].clips}


class Stopped(Exception):
    pass


def stop_at(clip: str):
    def seen(name: str) -> None:
        if name == clip:
            raise Stopped

    return seen


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_a_stopped_run_goes_on_to_the_same_bytes(videos: Path, tmp_path: Path, cut: int):
    extracted(videos, tmp_path / "whole", networks())
    for clip in ("clip2", "clip4"):
        with pytest.raises(Stopped):
            extracted(videos, tmp_path / "stopped", networks(stop_at(clip)), 2)
        for file in ("clips.jsonl", "rows.bin") if cut else ():
            place = tmp_path / "stopped" / "saliency.begun" / file
            os.truncate(place, place.stat().st_size - cut)
    seen: list[str] = []
    extracted(videos, tmp_path / "stopped", networks(seen.append))
    assert files_below(tmp_path / "stopped") == files_below(tmp_path / "whole")
    assert seen == (["clip4", "clip5"] if not cut else ["clip3", "clip4", "clip5"])


def test_a_run_stopped_over_the_last_rename_is_whole(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    extracted(videos, tmp_path / "whole", networks())
    real = os.replace

    def replace_but(source: Path, target: Path) -> None:
        if Path(source).name == "video_8.new":
            raise Stopped
        real(source, target)

    monkeypatch.setattr(os, "replace", replace_but)
    with pytest.raises(Stopped):
        extracted(videos, tmp_path / "stopped", networks())
    monkeypatch.undo()
    seen: list[str] = []
    extracted(videos, tmp_path / "stopped", networks(seen.append))
    assert seen == []
    assert files_below(tmp_path / "stopped") == files_below(tmp_path / "whole")


def test_what_is_there_is_kept_and_only_changed_or_new_clips_are_looked_at(videos: Path, tmp_path: Path):
    folder, output = tmp_path / "videos", tmp_path / "features"
    shutil.copytree(videos, folder)
    (folder / "bad.mp4").write_text("no video")
    extracted(folder, output, networks())
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    seen: list[str] = []
    extracted(folder, output, networks(seen.append))
    assert seen == []
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    write_clip(folder / "clip3.mp4", pictures(33), 8.0, sound(33), 16_000)
    write_clip(folder / "clip25.mp4", pictures(34), 8.0, sound(34), 16_000)
    (folder / "clip0.mp4").unlink()
    extracted(folder, output, networks(seen.append))
    assert seen == ["clip25", "clip3"]
    extracted(folder, tmp_path / "anew", networks())
    assert files_below(output) == files_below(tmp_path / "anew")


def test_features_made_otherwise_are_not_mixed(videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    output = tmp_path / "features"
    extracted(videos, output, networks(size=3))
    with pytest.raises(MetricError, match=r"saliency was extracted otherwise \(settings.size: 3 -> 4\)"):
        extracted(videos, output, networks(size=4))
    targets = tuple(replace(network, side="target") for network in networks(size=3))
    with pytest.raises(MetricError, match="side:  and target"):
        extracted(videos, output, targets)
    newer = tuple(
        replace(network, cards={part: replace(card, packages={"numpy": "3"}) for part, card in network.cards.items()})
        for network in networks(size=3)
    )
    with caplog.at_level(logging.WARNING):
        extracted(videos, output, newer)
    assert "other package versions; extracting it again" in caplog.text
    assert open_features(output / "sound").card.packages == {"numpy": "3"}
    with pytest.raises(Stopped):
        extracted(videos, tmp_path / "begun", networks(stop_at("clip2"), size=3), 1)
    with pytest.raises(MetricError, match=r"saliency.begun was extracted otherwise \(settings.size: 3 -> 4\)"):
        extracted(videos, tmp_path / "begun", networks(size=4))


def test_folders_of_others_are_left_alone(videos: Path, tmp_path: Path):
    (tmp_path / "features" / "saliency").mkdir(parents=True)
    (tmp_path / "features" / "saliency" / "mine.txt").write_text("mine")
    with pytest.raises(MetricError, match="was not made by this program"):
        extracted(videos, tmp_path / "features", networks())
    assert (tmp_path / "features" / "saliency" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("batch", [1, 4, 9])
def test_a_protocols_number_of_clips_is_the_first_usable_ones(videos: Path, tmp_path: Path, batch: int):
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    (folder / "a.mp4").write_text("no video")
    seen: list[str] = []
    found = extracted(folder, tmp_path / "features", networks(seen.append, most=3), batch).features["video_8"]
    assert [clip.clip for clip in found.clips] == seen == ["clip0", "clip1", "clip2"]
    reasons = {line["clip"]: line["reason"] for line in found.rejected}
    assert list(reasons) == ["a", "clip3", "clip4", "clip5"]
    assert reasons["clip4"] == "the protocol takes the first 3 usable clips"


def test_numbers_that_are_not_finite_cost_their_clip(videos: Path, tmp_path: Path):
    def rows(clip):
        found = looked_at(clip)
        return {part: np.full_like(found[part], np.nan) for part in found} if clip.name == "clip1" else found

    pictured = replace(networks()[0], rows=rows)
    found = extracted(videos, tmp_path / "features", (pictured,)).features["video_8"]
    assert len(found.clips) == 5
    assert "not all finite" in str(found.rejected[0]["reason"])


def test_what_nothing_can_be_made_of_is_an_error(videos: Path, tmp_path: Path):
    with pytest.raises(MediaError, match="no such file or folder"):
        find_clips(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="has no file with one of the endings"):
        find_clips(tmp_path / "empty")
    (tmp_path / "empty" / "a.mp4").write_text("no video")
    with pytest.raises(MetricError, match="none of 1 clips is usable; the first, a.mp4, because: is not a media file"):
        extracted(tmp_path / "empty", tmp_path / "features", networks())
    assert not list((tmp_path / "features").iterdir())
    with pytest.raises(ConfigError, match="--batch-size is 0"):
        extracted(videos, tmp_path / "features", networks(), 0)


def test_damaged_bookkeeping_is_said(videos: Path, tmp_path: Path):
    extracted(videos, tmp_path / "features", networks())
    origin = tmp_path / "features" / "sound" / "origin.json"
    origin.write_text(json.dumps({"side": ""}))
    with pytest.raises(MetricError, match=r"origin\.json is corrupt: delete"):
        extracted(videos, tmp_path / "features", networks())
