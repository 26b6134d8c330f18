"""The training demo: its steps are commands that the programs accept, and a failing step ends it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from con360av_jax import cli
from con360av_jax.commands.options import read_command
from con360av_jax.config.files import load_config, save_config
from con360av_jax.data.fake import fake_sample
from con360av_jax.data.writer import write_dataset
from preprocess.cli import COMMANDS as PREPROCESS


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Arguments of every process that the demo would start."""
    found: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda words, **options: found.append(words))
    return found


def test_every_step_is_a_command_that_can_be_typed(started: list[list[str]], tmp_path: Path, capsys):
    out, models = tmp_path / "demo", tmp_path / "models"
    models.mkdir()
    for name in ("fastgaze.vxm", "yamnet.tflite"):
        (models / name).touch()
    assert cli.main(["demo-train", "--out", str(out), "--models", str(models)]) == 0
    timings = json.loads((out / "timings.json").read_text())
    names = ["synth", "init", "run", "train", "sample", "evaluate", "report"]
    assert [words[3] for words in started] == names
    assert [row["command"].startswith(("con360av ", "python -m preprocess ")) for row in timings] == [True] * 7
    assert all(row.keys() == {"name", "command", "seconds"} for row in timings)
    config = load_config("debug")
    save_config(config, out / "pretrained" / "config.json")
    write_dataset(out / "dataset", [fake_sample(config, 0, fields=("saliency",))], config, ("saliency",), [], {})
    for python, _, program, *words in started:
        assert python == sys.executable
        commands = PREPROCESS if program == "preprocess" else cli.COMMANDS
        assert read_command(program, "", commands, words) is not None


def test_a_failing_step_ends_the_demo_with_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(words: list[str], **options: object) -> None:
        raise subprocess.CalledProcessError(3, words)

    monkeypatch.setattr(subprocess, "run", fail)
    assert cli.main(["demo-train", "--out", str(tmp_path)]) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_missing_video_is_named_before_anything_is_removed(started: list[list[str]], tmp_path: Path, capsys):
    (tmp_path / "report.html").touch()
    assert cli.main(["demo-train", "--out", str(tmp_path), "--video", "nothing.mp4"]) == 2
    assert "no such file: " in capsys.readouterr().err
    assert started == [] and (tmp_path / "report.html").exists()


def test_a_new_demo_removes_only_what_an_earlier_one_made(started: list[list[str]], tmp_path: Path):
    (tmp_path / "run").mkdir()
    for name in ("viewpoint_1.mp4", "notes.txt"):
        (tmp_path / name).touch()
    assert cli.main(["demo-train", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "timings.json"}
