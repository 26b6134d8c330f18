"""con360av study: every step is a command, what is finished is kept, and a table with all its parts comes out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from con360av_jax import cli
from con360av_jax.commands.options import read_command
from con360av_jax.commands.steps import Step
from con360av_jax.commands.study_steps import last_stage, pretraining
from con360av_jax.config.files import load_config, save_config
from con360av_jax.config.settings import Config
from con360av_jax.evaluate.results import read_results
from con360av_jax.evaluate.study_summary import read_table
from tests.support import tiny_world
from tests.support.evaluation_stand_ins import Extractor
from tests.support.judged_clips import tiny_judges, write_judges

pytestmark = pytest.mark.usefixtures("quick_compiles", "one_model")

SMALL = load_config("small")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands of the steps that ran, in this process."""
    found: list[str] = []

    def run(step: Step, flags: str = "") -> None:
        found.append(" ".join(step.arguments[1:4]))
        assert cli.main(step.arguments[1:]) == 0

    monkeypatch.setattr(Step, "run", run)
    return found


@pytest.fixture(scope="module")
def baseline(lean: Config) -> Path:
    return tiny_world.run(tiny_world.with_train(replace(lean, name="lean_study_baseline"), map_dropout=1.0), lean)


@pytest.fixture(scope="module")
def con360av(lean: Config) -> Path:
    """A run of its own: a model that was opened without its network is kept for other tests."""
    return tiny_world.run(replace(lean, name="lean_study"), lean)


def test_the_study_goes_from_runs_to_a_table_and_keeps_what_is_finished(
    lean: Config,
    baseline: Path,
    con360av: Path,
    extractor: Extractor,
    started: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    out, models = tmp_path / "study", tmp_path / "models"
    models.mkdir()
    for name in ("fastgaze.vxm", "yamnet.tflite"):
        (models / name).touch()
    files = write_judges(tmp_path / "judges", tiny_judges(lean))
    words = ["--baseline", str(baseline), "--con360av", str(con360av), "--models", str(models)]
    words += ["--weights", *(f"{name}={path}" for name, path in files.items())]
    words += ["--scenes", "2", "--tuning-scenes", "2", "--study-scenes", "1", "--steps", "1", "--draws", "20"]
    words += ["--text-scales", "1", "2", "--map-scales", "1", "2", "--step-counts", "1", "2"]
    with tiny_world.without_network():
        assert cli.main(["study", "--out", str(out), *words]) == 0
    assert [command.partition(" ")[0] for command in started] == (
        ["synth-dataset"] * 2 + ["evaluate"] * 3 + ["table1"] * 2 + ["evaluate"] * 2
    )
    table = read_table(out / "scenes_0")
    assert {"frechet_video_judge", "judge_in_view", "judge_direction_error_all"} <= table.con360av.keys()
    assert table.con360av["judge_place"].clips == 4, "two viewpoints of two scenes"
    assert set(read_table(out / "small").viewpoints) == {"fad"}
    shared = [out / place / "con360av" / "generated" for place in ("scenes_0", "small")]
    names = [sorted(path.name for path in folder.iterdir()) for folder in shared]
    assert names[0] == names[1] and (shared[0] / names[0][0]).samefile(shared[1] / names[0][0])
    first = [clip.clip for clip in read_results(out / "scenes_0" / "con360av").clips]
    assert first[0][:-2] == first[1][:-2], "scene by scene, as galleries show them"
    tuned, evaluated = (
        json.loads((out / "datasets" / name / "manifest.json").read_text())["settings"]["scenes"]["seed"]
        for name in ("tuning", "held_out")
    )
    assert tuned != evaluated
    text = (out / "study.md").read_text()
    for said in ("## Goals", "## Protocol small", "without_saliency", "without_basd", "without_caption", "steps_2"):
        assert said in text, said
    content = json.loads((out / "study.json").read_text())
    assert len(content["goals"]) == 5 and content["guidance"].keys() == {"baseline", "Con360-AV"}
    count = len(started)
    assert cli.main(["study", "--out", str(out), *words]) == 0
    assert len(started) == count and (out / "study.md").read_text() == text
    assert f"Open {out / 'study.md'}" in capsys.readouterr().out


def test_an_exported_model_may_be_a_row(lean: Config, baseline: Path, con360av: Path, tmp_path: Path, capsys):
    """Its report says what base it was trained on."""
    files = write_judges(tmp_path / "judges", tiny_judges(lean))
    assert cli.main(["export", str(con360av), "--out", str(tmp_path / "model")]) == 0
    data = ["--out", str(tmp_path / "data"), "--config", str(con360av / "config.json"), "--records", "4"]
    assert cli.main(["synth-dataset", *data, "--split", "validation"]) == 0
    words = ["--baseline", str(baseline), "--con360av", str(tmp_path / "model"), "--dataset", str(tmp_path / "data")]
    words += ["--out", str(tmp_path / "table"), "--protocol", "scenes", "--draws", "20", "--steps", "1"]
    words += ["--baseline-text-guidance", "3"]
    weights = ["--weights", *(f"{name}={path}" for name, path in files.items())]
    with tiny_world.without_network():
        assert cli.main(["table1", *words, *weights]) == 0
    captured = capsys.readouterr()
    assert "the two are sampled differently: sampler.text_guidance" in captured.err
    table = json.loads((tmp_path / "table" / "table1.json").read_text())
    assert table["rows"]["con360av"]["judge_in_view"]["title"] == "right object in view (judge)"
    assert "judges of procedural scenes" in table["without_paper"]
    base = changed(words, "--con360av", str(tiny_world.base(lean)))
    assert cli.main(["table1", *base, *weights]) == 2
    assert "a base has not learnt from maps; give a training run or its export" in capsys.readouterr().err


def changed(words: list[str], name: str, value: str) -> list[str]:
    place = words.index(name) + 1
    return [*words[:place], value, *words[place + 1 :]]


def test_scratch_trains_every_part_once_in_the_published_order_with_commands_that_can_be_typed(tmp_path: Path):
    work = [*pretraining(tmp_path, SMALL, "small"), *last_stage(tmp_path, SMALL, "small", 10, 2)]
    names = [" ".join(one.step.arguments[1:3]) for one in work if one.step.arguments[1] in ("pretrain", "train")]
    parts = ["judge_video", "judge_audio", "vae_video", "vae_audio", "vocoder", "unet_video", "unet_audio", "motion"]
    assert names == [*(f"pretrain {part}" for part in parts), *["train --config"] * 4]
    for base in ("base_random", "base_vae", "base_stills", "base"):
        save_config(SMALL, tmp_path / base / "config.json")
    last = [one.step.arguments for one in work if one.step.arguments[1] == "train"]
    assert [[words[-4:][-2:] == ("--config.train.map-dropout", "1") for words in last]] == [[True, False, True, False]]
    for one in work:
        if one.step.arguments[1] != "train":
            assert read_command("con360av", "", cli.COMMANDS, one.step.arguments[1:]) is not None
        made = one.to_run()
        assert made is not None and made.arguments == one.step.arguments


def test_a_stopped_training_is_resumed_and_a_finished_one_is_left_out(tmp_path: Path):
    work = next(one for one in pretraining(tmp_path, SMALL, "small") if "vae_audio" in one.step.arguments)
    (tmp_path / "runs" / "vae_audio" / "checkpoints" / "500").mkdir(parents=True)
    resumed = work.to_run()
    assert resumed is not None and resumed.arguments == (*work.step.arguments, "--resume")
    (tmp_path / "runs" / "vae_audio" / "checkpoints" / "8000").mkdir()
    assert work.to_run() is None


def test_wrong_use_is_one_line_and_starts_nothing(lean: Config, started: list[str], tmp_path: Path, capsys):
    run = str(tiny_world.run(lean))
    for words, line in (
        ([], "0 baseline and 0 Con360-AV runs in"),
        (["--baseline", run], "1 baseline and 0 Con360-AV runs"),
        (["--baseline", run, "--con360av", "nothing"], "no run or exported model: "),
        (["--scenes", "0"], "--scenes must be positive, but is 0"),
        (["--study-scenes", "300"], "--study-scenes 300: give at most --scenes 200"),
        (["--models", "nothing"], "no such file: nothing/fastgaze.vxm"),
    ):
        assert cli.main(["study", "--out", str(tmp_path / "study"), *words]) == 2
        assert line in capsys.readouterr().err
    assert started == [] and not list(tmp_path.iterdir())
