"""con360av table1: rows, ratios and the paper's numbers; resuming; and one-line refusals before hours are spent."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax import cli
from con360av_jax.config.settings import Config
from con360av_jax.data.fake import ALL_FIELDS, fake_sample
from con360av_jax.data.schema import Sample, sample_key
from con360av_jax.data.writer import write_dataset
from con360av_jax.evaluate import run
from con360av_jax.evaluate.features import open_features
from con360av_jax.evaluate.metrics.frechet import frechet_distance, moments
from con360av_jax.evaluate.results import read_results
from tests.support import tiny_world
from tests.support.evaluation_pages import Read
from tests.support.evaluation_stand_ins import Extractor

pytestmark = pytest.mark.usefixtures("quick_compiles", "one_model")

SCENES, VIEWPOINTS = 2, 3


@pytest.fixture(scope="module")
def baseline(lean: Config) -> Path:
    """A run without maps on the base of the run `lean`."""
    config = tiny_world.with_train(replace(lean, name="lean_baseline"), map_dropout=1.0)
    return tiny_world.run(config, made_for=lean)


@pytest.fixture(scope="module")
def dataset(lean: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes, each seen from three viewpoints, and one that is seen from one only."""

    def seen(number: int) -> Sample:
        sample = fake_sample(lean, 50 + number)
        clip, viewpoint = f"room_{number // VIEWPOINTS}", number % VIEWPOINTS
        return replace(sample, clip=clip, viewpoint_index=viewpoint, key=sample_key(clip, 0, viewpoint))

    folder = tmp_path_factory.mktemp("table1") / "dataset"
    samples = (seen(number) for number in range(SCENES * VIEWPOINTS + 1))
    write_dataset(folder, samples, lean, ALL_FIELDS, [], {"made by": "tests"})
    return folder


@pytest.fixture
def given(lean: Config, baseline: Path, dataset: Path, tmp_path: Path) -> list[str]:
    """A complete command; tests repeat an option to change it."""
    runs = ["--baseline", str(baseline), "--con360av", str(tiny_world.run(lean))]
    folders = ["--dataset", str(dataset), "--out", str(tmp_path / "table")]
    return ["table1", *runs, *folders, "--draws", "20", "--batch-size", "2"]


def changed(given: list[str], **options: object) -> list[str]:
    """The command with other values of options."""
    words = list(given)
    for name, value in options.items():
        words[words.index(f"--{name}") + 1] = str(value)
    return words


def rows(folder: Path, side: str, views: tuple[int, int]) -> list[np.ndarray]:
    """Audio features of both sides of all pairs of `views`, scene by scene."""
    found = []
    for view in views:
        features = open_features(folder / "viewpoints" / f"viewpoint_{view}" / "features" / side / "sound")
        by_scene = dict(zip((clip.clip.rsplit("_", 1)[0] for clip in features.clips), features, strict=True))
        found.append(np.concatenate([by_scene[f"room_{scene}_0"] for scene in range(SCENES)]))
    return found


def test_one_command_leaves_the_table_and_all_that_it_rests_on(
    given: list[str], extractor: Extractor, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "table"
    assert cli.main([*given, "--protocol", "small"]) == 0
    captured = capsys.readouterr()
    assert f"Open {folder / 'table1.html'}" in captured.out and "Warning" not in captured.out + captured.err
    table = json.loads((folder / "table1.json").read_text())
    assert {row: set(found) for row, found in table["rows"].items()} == {
        "baseline": {"s_kl", "fad"}, "con360av": {"s_kl", "fad"}, "viewpoints": {"fad"},
    }  # fmt: skip
    for row in ("baseline", "con360av"):
        results = read_results(folder / row)
        for name, found in table["rows"][row].items():
            metric = results.metric(name)
            assert metric is not None and (metric.value, metric.low) == (found["value"], found["low"])
            assert found["low"] < found["value"] < found["high"] and found["paper"] is None
        assert results.made_from["conditions"]["control"] == (row == "con360av")  # pyright: ignore
    pairs = [rows(folder, "generated", views) for views in ((0, 1), (0, 2), (1, 2))]
    first, second = (moments(np.concatenate([pair[side] for pair in pairs])) for side in (0, 1))
    fad = table["rows"]["viewpoints"]["fad"]
    assert fad["value"] == pytest.approx(frechet_distance(first, second, "unbiased"), rel=1e-5)
    assert fad["low"] < fad["value"] < fad["high"] and fad["clips"] == SCENES * VIEWPOINTS
    shares = {name: found["value"] for name, found in table["rows"]["con360av"].items()}
    for name, found in table["rows"]["baseline"].items():
        assert table["ratios"][name] == {"ours": pytest.approx(shares[name] / found["value"]), "paper": None}
    page = Read(folder / "table1.html")
    assert "FastGaze and YAMNet" in page.text and "1.9536" not in page.text and "Viewpoint comparison" in page.text
    assert all((folder / address).is_file() for address in page.files()) and len(page.files()) == 4
    assert ["train.map_dropout", "1.0", "0.1"] in [[f"train.{name}", *two] for name, *two in table["training"]]

    files = tiny_world.files_below(folder)
    calls = list(extractor.calls)
    assert calls.count("target") == 1 and calls.count("generated") == 2 + VIEWPOINTS
    monkeypatch.setattr(run, "load", lambda *_, **__: pytest.fail("a model was read again"))
    assert cli.main([*given, "--protocol", "small"]) == 0
    assert extractor.calls == calls and tiny_world.files_below(folder) == files


def test_the_papers_protocol_shows_the_papers_numbers(given: list[str], extractor: Extractor, tmp_path: Path, capsys):
    folder = tmp_path / "table"
    assert cli.main([*given, "--count", "4"]) == 0
    shown = capsys.readouterr().out
    table = json.loads((folder / "table1.json").read_text())
    paper = {row: {name: metric["paper"] for name, metric in found.items()} for row, found in table["rows"].items()}
    assert paper == {
        "baseline": {"s_kl": 1.9536, "fad": 8.23, "fvd_16": 1959, "fvd_32": 1959},
        "con360av": {"s_kl": 0.6458, "fad": 3.21, "fvd_16": 1327, "fvd_32": 1327},
        "viewpoints": {"fad": 4.12, "fvd_16": 1594, "fvd_32": 1594},
    }
    assert [round(ratio["paper"], 2) for ratio in table["ratios"].values()] == [0.33, 0.39, 0.68, 0.68]
    text = Read(folder / "table1.html").text
    for number in ("1.9536", "0.6458", "8.23", "3.21", "4.12", "1959", "1327", "1594", "0.33", "0.39", "0.68"):
        assert number in text and number in shown, number
    assert table["without_paper"] == ""
    clips = {path.name: len(list((path / "generated").iterdir())) for path in (folder / "viewpoints").glob("*_?")}
    assert clips == {"viewpoint_0": 1, "viewpoint_1": 1, "viewpoint_2": 1}


def test_a_baseline_that_saw_maps_is_told_before_and_after(
    given: list[str], extractor: Extractor, lean: Config, tmp_path: Path, capsys
):
    other = tiny_world.run(replace(lean, name="lean_other"), made_for=lean)
    wrong = changed(given, baseline=other)
    assert cli.main([*wrong, "--protocol", "small", "--map-guidance", "2"]) == 0
    captured = capsys.readouterr()
    told = "was trained with maps (train.map_dropout 0.1, not 1): it is not the audio-video baseline"
    assert told in captured.err and told in captured.out
    assert told in Read(tmp_path / "table" / "table1.html").text
    assert any(told in warning for warning in json.loads((tmp_path / "table" / "table1.json").read_text())["warnings"])


def test_what_cannot_be_the_table_is_one_line_and_makes_nothing(
    given: list[str], lean: Config, baseline: Path, dataset: Path, tmp_path: Path, capsys
):
    stranger = tiny_world.run(tiny_world.with_train(replace(lean, name="lean_stranger"), map_dropout=1.0))
    con360av = tiny_world.run(lean)
    one_view = tiny_world.dataset(lean)
    for words, line in (
        (changed(given, baseline=con360av), f"--baseline and --con360av are the same weights: {con360av}"),
        (changed(given, con360av=baseline), f"--con360av {baseline}: trained without maps, it is a baseline"),
        (changed(given, con360av=tiny_world.base(lean)), "a base has not learnt from maps; give a training run"),
        (changed(given, baseline=stranger), f"--baseline {stranger} and --con360av {con360av} have other bases"),
        (changed(given, dataset=one_view), "all records have one viewpoint index: preprocess with --viewpoints 2"),
        (changed(given, baseline="nothing"), "nothing does not exist: give a base, a run"),
        (given, "protocol paper needs weights of i3d and clap and tempsal: give --weights i3d=PATH"),
        ([*given, "--protocol", "small"], "protocol small needs weights of fastgaze and yamnet"),
        ([*given, "--protocol", "fadtk"], "--protocol fadtk: give one of paper, small"),
        ([*given, "--count", "99"], "--count 99, but there are 7 records to choose from"),
        (changed(given, draws=2), "--draws 2: give at least 10"),
    ):
        assert cli.main(words) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and line in captured.err, captured.err
        assert not list(tmp_path.iterdir())


def test_a_base_may_be_the_baseline(given: list[str], extractor: Extractor, lean: Config, tmp_path: Path, capsys):
    """As the published audio-video baseline is, once converted."""
    assert cli.main([*changed(given, baseline=tiny_world.base(lean)), "--protocol", "small", "--count", "2"]) == 0
    assert "Warning" not in capsys.readouterr().out
    assert read_results(tmp_path / "table" / "baseline").made_from["run"]["weights"] == "pretrained"  # pyright: ignore
