"""The demo of a trained model: its steps are commands that the programs accept, for a scene and for a recording."""

import json
import subprocess
from pathlib import Path

import pytest

from con360av_jax import cli
from con360av_jax.commands import demo
from con360av_jax.commands.options import read_command
from con360av_jax.config.files import load_config, save_config
from preprocess.cli import COMMANDS as PREPROCESS


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Arguments of every process that the demo would start, without Python and module."""
    found: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda words, **options: found.append(words[2:]))
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of which the demo reads the config only."""
    save_config(load_config("small"), tmp_path / "model" / "config.json")
    return tmp_path / "model"


def typed(words: list[str]) -> str:
    """Name of the command that a step starts; fails if the program does not accept its options."""
    program, *rest = words
    assert read_command(program, "", PREPROCESS if program == "preprocess" else cli.COMMANDS, rest) is not None
    return rest[0]


def test_every_step_of_a_scene_is_a_command_that_can_be_typed(started: list[list[str]], model: Path, tmp_path: Path):
    out, judges = tmp_path / "demo", ["judge_video=a", "judge_audio=b"]
    assert cli.main(["demo", "--out", str(out), "--checkpoint", str(model), "--weights", *judges]) == 0
    assert [typed(words) for words in started] == ["synth", "run", "evaluate", "gallery"]
    scene, records, evaluation, page = (" ".join(words) for words in started)
    assert "--version 2 --split validation --seed 7 --seconds 2" in scene, "held out, and as long as a clip"
    assert f"--trajectories {out}/scene/viewpoints.csv" in records and f"--config {model}/config.json" in records
    assert f"--protocol scenes --truth {out}/scene --weights judge_video=a judge_audio=b" in evaluation
    assert "--scenes 1" in evaluation and "--batch-size 2" in evaluation, "both viewpoints of one scene, at once"
    assert "--note" not in page
    timings = json.loads((out / "timings.json").read_text())
    assert [row["command"].partition(" ")[0] for row in timings] == ["con360av", "python", "con360av", "con360av"]


def test_the_page_of_a_recording_says_what_the_model_has_learnt(started: list[list[str]], model: Path, tmp_path: Path):
    video = tmp_path / "my 360.mp4"
    video.touch()
    options = ["--out", str(tmp_path / "demo"), "--checkpoint", str(model), "--video", str(video)]
    assert cli.main(["demo", *options]) == 0
    assert [typed(words) for words in started] == ["run", "evaluate", "gallery"]
    assert started[0][2] == str(video) and "template" in started[0]
    assert started[1][-2:] == ["--protocol", "plain"], "the truth is not known"
    note = started[2][started[2].index("--note") + 1]
    assert note.startswith("This model has only learnt procedural scenes")
    last = json.loads((tmp_path / "demo" / "timings.json").read_text())[-1]
    assert f"'{note}'" in last["command"], "quoted as a shell needs it"


def test_without_a_packaged_model_the_demo_trains_one(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(demo, "packaged_models", lambda: [])
    assert cli.main(["demo", "--out", str(tmp_path)]) == 0
    assert "No trained model is packaged yet" in capsys.readouterr().out
    assert [typed(words) for words in started[-2:]] == ["sample", "report"]


def test_wrong_use_is_one_line_and_removes_nothing(started: list[list[str]], model: Path, tmp_path: Path, capsys):
    (tmp_path / "report.html").touch()
    for words, line in (
        (["--video", "nothing.mp4"], "no such file: "),
        (["--checkpoint", "nothing"], "nothing does not exist: give a base, a run"),
        (["--checkpoint", str(model), "--seed", "-1"], "--seed -1: give 0 or more"),
    ):
        assert cli.main(["demo", "--out", str(tmp_path), *words]) == 2
        assert line in capsys.readouterr().err
    assert started == [] and (tmp_path / "report.html").exists()


def test_a_new_demo_removes_only_what_an_earlier_one_made(started: list[list[str]], model: Path, tmp_path: Path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "notes.txt").touch()
    assert cli.main(["demo", "--out", str(tmp_path), "--checkpoint", str(model)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model", "notes.txt", "timings.json"}


def test_a_failing_step_ends_the_demo_with_its_exit_code(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(words: list[str], **options: object) -> None:
        raise subprocess.CalledProcessError(3, words)

    monkeypatch.setattr(subprocess, "run", fail)
    assert cli.main(["demo", "--out", str(tmp_path / "demo"), "--checkpoint", str(model)]) == 3
    assert list((tmp_path / "demo").iterdir()) == []
