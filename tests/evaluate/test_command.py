"""con360av evaluate end to end: results and page, resuming, and one-line errors."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from con360av_jax import cli
from con360av_jax.commands.evaluation_options import EvaluationOptions
from con360av_jax.config.settings import Config
from con360av_jax.data.fake import ALL_FIELDS, fake_sample
from con360av_jax.data.schema import Sample, sample_key
from con360av_jax.data.source import open_dataset
from con360av_jax.data.writer import write_dataset
from con360av_jax.evaluate import extraction, run
from con360av_jax.evaluate.protocols import PAPER, SMALL, Protocol
from con360av_jax.evaluate.results import read_results
from con360av_jax.evaluate.settings import find_weights
from con360av_jax.evaluate.training_data import trained_on
from tests.support import tiny_world
from tests.support.evaluation_stand_ins import Extractor, results_json

pytestmark = pytest.mark.usefixtures("quick_compiles", "one_model")

ROUNDING = 1e-3  # of float32 sums in another order, and of a picture's bytes and a sound's 16 bits beside a border


@pytest.fixture
def given(lean: Config, tmp_path: Path) -> list[str]:
    """The options of an evaluation without those that tests vary."""
    folders = ["--run", str(tiny_world.run(lean)), "--dataset", str(tiny_world.dataset(lean))]
    return ["evaluate", *folders, "--out", str(tmp_path / "eval"), "--draws", "20", "--batch-size", "2"]


def fails(capsys: pytest.CaptureFixture[str], arguments: Sequence[object]) -> str:
    """The one line that a failing command writes."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("con360av: error: ") == 1
    return captured.err.strip().splitlines()[-1].removeprefix("con360av: error: ")


def values(folder: Path) -> dict[str, float | None]:
    return {metric["name"]: metric["value"] for metric in results_json(folder)["metrics"]}


def test_one_command_leaves_numbers_with_all_that_they_mean_and_a_page(
    given: list[str], extractor: Extractor, lean: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "eval"
    assert cli.main([*given, "--count", "4", "--paper", "s_kl=0.5", "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "S_KL (FastGaze)" in shown and "FAD (YAMNet)" in shown and f"Open {folder / 'metrics.html'}" in shown
    results = read_results(folder)
    assert (folder / "metrics.html").is_file()
    assert results.command == f"con360av {' '.join(given)} --count 4 --paper s_kl=0.5 --seed 3".replace(
        "--draws 20 --batch-size 2 --count 4 --paper s_kl=0.5 --seed 3",
        "--count 4 --seed 3 --batch-size 2 --draws 20 --paper s_kl=0.5",
    )
    assert tuple(metric.name for metric in results.metrics) == run.metric_names(SMALL, truth=False)
    assert results.protocol["name"] == "small" and set(results.cards) == {"saliency", "sound", "classes"}
    s_kl = results.metric("s_kl")
    assert s_kl is not None and s_kl.value is not None and s_kl.paper == 0.5 and s_kl.clips == 4
    assert len(results.clips) == 4 and all((folder / clip.generated).is_file() for clip in results.clips)
    assert all({"s_kl", "sound_distance"} <= clip.scores.keys() for clip in results.clips)
    dataset, made = results.made_from["dataset"], results.made_from["run"]
    assert isinstance(dataset, dict) and len(dataset["manifest_sha256"]) == 64
    assert isinstance(made, dict) and (made["step"], made["config"]) == (7, lean.name)
    assert results.versions["jax"] == jax.__version__
    assert {path.name for path in folder.iterdir()} == {
        "settings.json", "clips.jsonl", "generated", "targets", "features", "metrics.json", "metrics.html",
    }  # fmt: skip


def test_the_same_command_again_makes_nothing_and_finds_the_same(
    given: list[str], extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert cli.main([*given, "--count", "3"]) == 0
    first, before = results_json(tmp_path / "eval"), tiny_world.files_below(tmp_path / "eval" / "generated")
    monkeypatch.setattr(run, "load", lambda *_, **__: pytest.fail("the model was read again"))
    assert cli.main([*given, "--count", "3"]) == 0
    assert results_json(tmp_path / "eval") == first and extractor.calls == ["generated", "target"]
    assert tiny_world.files_below(tmp_path / "eval" / "generated") == before
    next((tmp_path / "eval" / "generated").iterdir()).touch()
    for _ in range(2):
        assert cli.main([*given, "--count", "3"]) == 0
    assert extractor.calls == ["generated", "target", "generated"]


def test_eight_devices_find_the_same_metrics(given: list[str], extractor: Extractor, tmp_path: Path):
    out = given.index("--out") + 1
    one, eight = ([*given[:out], str(tmp_path / name), *given[out + 1 :]] for name in ("one", "eight"))
    assert cli.main(one) == 0
    assert cli.main([*eight[:-1], "8", "--mesh.data", "4", "--mesh.fsdp", "2"]) == 0
    found, wanted = values(tmp_path / "eight"), values(tmp_path / "one")
    assert found.keys() == wanted.keys() and {"s_kl", "fad", "sound_distance"} < wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=ROUNDING), name


def test_rejected_targets_are_counted_and_told(
    given: list[str], extractor: Extractor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    extractor.rejected["fake_000001_0_0"] = "is too short"
    assert cli.main(given) == 0
    assert "fad excludes 1 clip: target: is too short" in capsys.readouterr().out
    fad = read_results(tmp_path / "eval").metric("fad")
    assert fad is not None and fad.clips == 4


def test_features_extracted_elsewhere_are_taken_over(
    given: list[str], extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert cli.main([*given, "--count", "3"]) == 0
    wanted = values(tmp_path / "eval")
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "eval" / "features").rename(elsewhere)
    monkeypatch.setattr(extraction, "run_extractor", lambda *_: pytest.fail("extracted here"))
    sides = [str(elsewhere / side) for side in ("generated", "targets")]
    assert cli.main([*given, "--count", "3", "--features", *sides]) == 0
    assert values(tmp_path / "eval") == wanted and (elsewhere / "generated" / "sound" / "card.json").is_file()
    assert cli.main([*given, "--count", "3"]) == 0


def test_what_the_run_was_trained_on_is_told_loudly(
    given: list[str], extractor: Extractor, lean: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli.main([*given, "--count", "1"]) == 0
    told = "this is the dataset that the run was trained on"
    assert f"Warning: {told}" in capsys.readouterr().out
    assert read_results(tmp_path / "eval").made_from["trained_on"] == told
    assert f"<strong>Warning</strong>: {told}" in (tmp_path / "eval" / "metrics.html").read_text()


def test_recordings_of_the_training_dataset_are_counted(lean: Config, tmp_path: Path):
    def renamed(number: int, clip: str) -> Sample:
        sample = fake_sample(lean, number)
        return replace(sample, clip=clip, key=sample_key(clip, sample.segment, sample.viewpoint_index))

    known = open_dataset(tiny_world.dataset(lean)).samples[0].clip
    sets = {"some": (known, "new_1", "new_2"), "none": ("new_1", "new_2", "new_3")}
    found = {}
    for name, clips in sets.items():
        samples = (renamed(number, clip) for number, clip in enumerate(clips))
        write_dataset(tmp_path / name, samples, lean, ALL_FIELDS, [], {"made by": "tests"})
        found[name] = open_dataset(tmp_path / name)
    run_weights, base = (find_weights(path, ema=True) for path in (tiny_world.run(lean), tiny_world.base(lean)))
    told = {name: trained_on(run_weights, dataset, dataset.samples) for name, dataset in found.items()}
    assert told == {"some": "the run was trained on 1 of these 3 recordings, by their names", "none": ""}
    assert trained_on(base, found["some"], found["some"].samples) == ""
    copied = tmp_path / "run"
    shutil.copytree(run_weights.folder, copied)
    recorded = json.loads((copied / "run.json").read_text())
    recorded["dataset"]["path"] = str(tmp_path / "gone")
    (copied / "run.json").write_text(json.dumps(recorded))
    moved = replace(run_weights, folder=copied)
    assert trained_on(moved, found["none"], found["none"].samples).startswith(
        "it is not known whether the run was trained on these recordings: dataset folder "
    )


def test_other_settings_into_the_same_folder_are_refused(given: list[str], extractor: Extractor, capsys):
    assert cli.main([*given, "--count", "2"]) == 0
    capsys.readouterr()
    line = fails(capsys, [*given, "--count", "2", "--steps", "2", "--map-guidance", "2"])
    assert "sampler.map_guidance.audio: 1.0 -> 2.0" in line and "sampler.steps: 3 -> 2" in line
    assert 'negative_caption: "" -> blurred' in fails(capsys, [*given, "--count", "2", "--negative-caption", "blurred"])
    assert "run.weights: moving average -> trained" in fails(capsys, [*given, "--raw-weights"])


@pytest.mark.parametrize(
    ("given", "protocol", "wanted"),
    [(None, PAPER, "bad quality, worse quality"), (None, SMALL, ""), ("", PAPER, ""), ("blurred", SMALL, "blurred")],
)
def test_clips_have_the_protocol_s_negative_caption_unless_another_is_given(
    given: str | None, protocol: Protocol, wanted: str, lean: Config
):
    options = EvaluationOptions(negative_caption=given)
    making = options.making(tiny_world.run(lean), tiny_world.dataset(lean), protocol)
    assert making.negative_caption == making.settings(protocol.name)["negative_caption"] == wanted


WRONG = [
    ("", "give --run RUN --dataset DATASET, or --compare EVALUATION EVALUATION"),
    ("RUN", "give --run RUN --dataset DATASET, or --compare EVALUATION EVALUATION"),
    ("RUN --dataset nothing", "dataset folder nothing does not exist: write it first, or check the path"),
    ("--run nothing DATASET", "nothing does not exist: give a base, a run, RUN/checkpoints/STEP or the name of"),
    ("RUN DATASET --protocol large", "no protocol is called 'large': give one of paper, styleganv, videogpt"),
    ("RUN DATASET --count 9", "--count 9, but there are 5 records to choose from: give 1 to that many"),
    ("RUN DATASET --weights yamnet", "--weights yamnet: give NAME=PATH, such as"),
    ("RUN DATASET --weights yamnet=no", "--weights yamnet=no: no such file; give the file's path"),
    ("RUN DATASET --weights a=x a=y", "--weights a is given twice: x and y"),
    (
        "RUN DATASET --weights nets=x",
        "--weights nets=x: no such network; there are i3d, clap, tempsal, fastgaze, yamnet",
    ),
    ("RUN DATASET", "protocol small needs weights of fastgaze and yamnet: give --weights fastgaze=PATH yamnet=PATH"),
    ("RUN DATASET --study ablation", "protocol small needs weights of fastgaze and yamnet: give --weights"),
    ("RUN DATASET --protocol fadtk", "protocol fadtk needs weights of clap: give --weights clap=PATH, or extract"),
    ("RUN DATASET --features a b", "--features a: no such folder; give what python -m preprocess features"),
    ("RUN DATASET --truth no", "--truth no: no such folder; give what con360av synth wrote"),
    ("RUN DATASET --paper s_kl", "--paper s_kl: give NAME=VALUE, such as s_kl=0.5"),
    ("RUN DATASET --paper s_kl=nan", "--paper s_kl=nan: give a finite value, such as s_kl=0.5"),
    ("RUN DATASET --paper s_kl=1 s_kl=2", "--paper s_kl is given twice: 1 and 2"),
    (
        "RUN DATASET --paper fvd_16=9",
        "--paper fvd_16: no such metric here; give one of s_kl, fad, fad_infinity, sound_",
    ),
    ("RUN DATASET --study ablation --paper fid=9", "--paper fid: no such metric here; give one of s_kl, fad"),
    ("RUN DATASET --protocol fadtk --paper s_kl=9", "--paper s_kl: no such metric here; give one of fad, fad_infinity"),
    ("RUN DATASET --paper share_in_view=1", "--paper share_in_view: no such metric here; give one of"),
    ("RUN DATASET --seed -1", "--seed -1: give 0 or more"),
    ("RUN DATASET --map-guidance nan", "a guidance scale of 'nan': give one number, or audio=NUMBER,video=NUMBER"),
    ("RUN DATASET --study guidance --text-scales 1 inf", "a guidance scale of 'inf': give one number, or audio=NUMB"),
    ("RUN DATASET --draws 3", "--draws 3: give at least 10, better 1000"),
    ("RUN DATASET --text-guidance much", "a guidance scale of 'much': give one number, or audio=NUMBER"),
    ("RUN DATASET --map-scales 1", "--text-scales and --map-scales are for --study guidance"),
    ("RUN DATASET --study guidance", "--study guidance: give --text-scales, --map-scales or both"),
    ("RUN DATASET --study viewpoints", "all records have one viewpoint index: preprocess with --viewpoints 2"),
    ("RUN DATASET --batch-size 0", "--batch-size 0: give 1 or more"),
    ("RUN DATASET --mesh.data 99", "mesh data=99 fsdp=1 tensor=1 needs 99 devices, 8 are here"),
    ("RUN DATASET --steps 5000", "5000 sampling steps"),
    ("RUN DATASET --processes 2", "--coordinator, --processes and --process-id belong together"),
    ("--compare nothing", "--compare nothing: give two evaluation folders or more"),
    ("--compare nothing nowhere", "nothing cannot be read"),
    ("--compare a b --out page.pdf", "--out page.pdf: a comparison is one page, give a name that ends in"),
]


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_wrong_use_is_one_line_and_makes_nothing(
    options: str, words: str, lean: Config, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    stand_for = {
        "RUN": ["--run", str(tiny_world.run(lean))],
        "DATASET": ["--dataset", str(tiny_world.dataset(lean))],
    }
    arguments = [word for option in options.split() for word in stand_for.get(option, [option])]
    out = [] if "--out" in options or "--compare" in options else ["--out", "eval"]
    assert words in fails(capsys, ["evaluate", *arguments, *out])
    assert not list(tmp_path.iterdir())


def test_unusable_weights_are_refused_before_anything_is_generated(given: list[str], tmp_path: Path, capsys):
    for name in ("fastgaze", "yamnet"):
        (tmp_path / name).write_bytes(b"not a network")
    weights = [f"{name}={tmp_path / name}" for name in ("fastgaze", "yamnet")]
    assert fails(capsys, [*given, "--weights", *weights]).startswith("features cannot be extracted: ")
    assert not (tmp_path / "eval").exists()


def test_a_dataset_without_its_views_is_refused(lean: Config, tmp_path: Path, capsys):
    fields = tuple(name for name in ALL_FIELDS if name not in ("video", "sound"))
    samples = (fake_sample(lean, number, fields=fields) for number in range(2))
    write_dataset(tmp_path / "bare", samples, lean, fields, [], {"made by": "tests"})
    arguments = ["evaluate", "--run", tiny_world.run(lean), "--dataset", tmp_path / "bare"]
    assert fails(capsys, arguments) == (
        f"{tmp_path / 'bare'} has no video and no sound to compare with: preprocess it again with --keep-raw"
    )


def test_a_pretrained_folder_needs_a_place_for_its_evaluation(lean: Config, capsys):
    arguments = ["evaluate", "--run", tiny_world.base(lean), "--dataset", tiny_world.dataset(lean)]
    assert "give the folder of the evaluation with --out" in fails(capsys, arguments)


def test_a_comparison_of_two_evaluations_is_one_page(
    given: list[str], extractor: Extractor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = [*given, "--map-guidance", "3"]
    other[other.index("--out") + 1] = str(tmp_path / "other")
    few = [*given, "--count", "3"]
    few[few.index("--out") + 1] = str(tmp_path / "few")
    for arguments in (given, other, few):
        assert cli.main(arguments) == 0
    capsys.readouterr()
    folders = [str(tmp_path / name) for name in ("eval", "other", "few")]
    page = tmp_path / "page.html"
    assert cli.main(["evaluate", "--compare", *folders[:2], "--out", str(page), "--draws", "50"]) == 0
    shown = capsys.readouterr().out
    assert f"S_KL (FastGaze): {folders[1]} minus {folders[0]} " in shown and f"Open {page}" in shown
    told = json.loads(page.with_suffix(".json").read_text())
    assert [one["clips"] for one in told["differences"] if one["name"] == "s_kl"] == [5]
    assert page.is_file()
    line = fails(capsys, ["evaluate", "--compare", folders[0], folders[2]])
    assert line.startswith(f"these evaluations cannot be compared. {folders[0]} and {folders[2]}: clips: 2 only in the")


def test_one_clip_has_numbers_without_intervals(given: list[str], extractor: Extractor, tmp_path: Path):
    assert cli.main([*given, "--count", "1"]) == 0
    s_kl = read_results(tmp_path / "eval").metric("s_kl")
    assert s_kl is not None and s_kl.value is not None and np.isfinite(s_kl.value)
    assert (s_kl.low, s_kl.note) == (None, "one recording has no interval")
