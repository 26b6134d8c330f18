"""Every kind of bad input ends as its own line in the ledger, and never takes a good one with it."""

import csv
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.errors import ConfigError, MediaError
from preprocess.inputs import search
from preprocess.running.pipeline import Ledger, Pipeline
from preprocess.stages.quality import Limits
from preprocess.stages.segment import cut, windows
from preprocess.stages.standardise import standardise
from tests.support.bad_recordings import KINDS, made, moved
from tests.support.panorama_files import EVENLY, RATE, hiss, write_panorama


def listing(folder: Path, names: list[str]) -> Path:
    path = folder / "clips.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["file"], *([name] for name in names)])
    return path


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_bad_file_leaves_one_line_that_says_where_and_why(chain: Pipeline, tmp_path: Path, kind: str):
    path, line = made(kind, tmp_path)
    inputs = search([listing(tmp_path, [path.name])]).inputs
    ledger = Ledger()
    samples = list(chain.samples(inputs, ledger))
    assert ledger.rejected == [line]
    # The other half of a file with one bad segment is used.
    assert [sample.segment for sample in samples] == ([] if "segment" not in line else [1 - int(str(line["segment"]))])


def test_among_all_kinds_of_bad_files_every_good_one_comes_out_and_nothing_is_lost(chain: Pipeline, tmp_path: Path):
    names, lines = [], []
    for number, kind in enumerate(KINDS):
        path, line = made(kind, tmp_path)
        write_panorama(tmp_path / f"good{number}.mkv", sound=hiss(channels=4), layout="quad")
        names += [path.name, f"good{number}.mkv"]
        lines.append(line)
    ledger = Ledger()
    done: list[str] = []
    inputs = search([listing(tmp_path, names)]).inputs
    samples = list(chain.samples(inputs, ledger, lambda given: done.append(given.name)))
    assert done == [Path(name).stem for name in names]
    assert ledger.rejected == lines
    halves = sum("segment" in line for line in lines)
    good = {f"good{number}": 2 for number in range(len(KINDS))}
    assert {clip: count for clip, count in ledger.segments.items() if clip in good} == good
    assert len(samples) == sum(ledger.segments.values()) == 2 * len(KINDS) + halves
    whole = {line["file"] for line in lines if "segment" not in line}
    assert len(whole) + len(ledger.segments) == len(inputs)


def test_a_file_that_vanishes_while_it_is_worked_on_loses_its_remaining_segments(chain: Pipeline, tmp_path: Path):
    path = write_panorama(tmp_path / "a.mkv", sound=hiss())
    ledger = Ledger()
    samples = chain.samples(search([path]).inputs, ledger)
    next(samples)
    path.unlink()
    assert list(samples) == []
    reason = f"{path}: no such file; check the path"
    assert ledger.rejected == [{"file": str(path), "stage": "segment", "reason": reason, "segment": 1}]


def test_a_folder_gives_its_dangling_links_too(tmp_path: Path):
    moved(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").mkdir()
    (tmp_path / "b.mp4" / "c.mp4").touch()
    assert [given.name for given in search([tmp_path]).inputs] == ["a", "c"]


@pytest.mark.parametrize(
    "times",
    [
        (0.03, *EVENLY[1:8], 1.0, 1.01, 1.3, 1.75, 1.8, 1.9),
        (*EVENLY[:8], 1.0, 1.45, 1.9),
        (*EVENLY[:5], *EVENLY[8:]),
    ],
)
def test_a_variable_rate_without_long_gaps_is_read_by_its_timestamps(tiny: Config, tmp_path: Path, times):
    path = write_panorama(tmp_path / "a.mkv", times=times, sound=hiss())
    clip = standardise(path, "a", tiny)
    for window in windows(clip, tiny.clip):
        shown = (cut(window, tiny).frames[:, 16:, 32:].mean(axis=(1, 2, 3)) - 20) / 5
        instants = window.start + np.arange(4) / 4
        wanted = [max(sum(time <= instant + 1e-6 for time in times) - 1, 0) for instant in instants]
        np.testing.assert_allclose(shown, wanted, atol=0.4)


def test_only_the_channels_that_are_used_are_judged(tiny: Config, tmp_path: Path):
    sound = hiss(channels=4)
    sound[:, 1:] = (1, np.nan, 0)
    clip = standardise(write_panorama(tmp_path / "a.mkv", sound=sound, layout="quad"), "a", tiny)
    np.testing.assert_array_equal(cut(windows(clip, tiny.clip)[1], tiny).audio, sound[RATE:, 0])


def test_stereo_whose_sides_cancel_is_silent(tiny: Config, tmp_path: Path):
    sound = hiss() * np.array([[1, -1]], np.float32)
    clip = standardise(write_panorama(tmp_path / "a.mkv", sound=sound, layout="stereo"), "a", tiny)
    with pytest.raises(MediaError, match="silent"):
        cut(windows(clip, tiny.clip)[0], tiny)


def test_limits_can_be_widened_and_must_make_sense(tiny: Config, tmp_path: Path):
    clip = standardise(write_panorama(tmp_path / "a.mkv", sound=hiss() / 10_000), "a", tiny)
    window = windows(clip, tiny.clip)[0]
    with pytest.raises(MediaError, match="-95 dBFS"):
        cut(window, tiny)
    assert cut(window, tiny, Limits(silence=-100)).audio.any()
    for wrong in ({"silence": 1.0}, {"clipped": 2.0}, {"picture_gap": 0.0}):
        with pytest.raises(ConfigError):
            Limits(**wrong)
