"""The feature extractor process: its command line, its error messages, and locking of its output folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from con360av_jax.errors import ConfigError, MetricError
from con360av_jax.evaluate import extraction
from con360av_jax.evaluate.extraction import Extraction, command, run_extractor, weights_by_name
from con360av_jax.evaluate.protocols import SMALL


def test_the_other_program_s_words_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "generated").mkdir()
    asked = (
        tmp_path / "generated",
        tmp_path / "features",
        "generated",
        SMALL,
        Extraction(weights={"yamnet": Path("no")}),
    )
    with pytest.raises(MetricError, match="were not extracted: .*") as error:
        run_extractor(*asked)
    assert "\n" not in str(error.value) and "preprocess: error" not in str(error.value)
    for words, told in (
        ("import sys; sys.exit('preprocess: error: X needs torch: pip install x')", "GENERATED TARGETS"),
        ("import sys; sys.exit(1)", "it ended without a message"),
    ):
        monkeypatch.setattr(extraction, "command", lambda *_, words=words: [sys.executable, "-c", words])
        with pytest.raises(MetricError, match=told):
            run_extractor(*asked)


def test_a_program_that_outlived_its_evaluation_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "generated").mkdir()
    asked = tmp_path / "generated", tmp_path / "features" / "generated", "generated", SMALL, Extraction()
    held = (
        "import fcntl, pathlib, sys; lock = pathlib.Path(sys.argv[1]).open('w')\n"
        "try: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit('held')\n"
    )
    lock = str(tmp_path / "features" / ".generated.lock")
    monkeypatch.setattr(extraction, "command", lambda *_: [sys.executable, "-c", held, lock])
    with pytest.raises(MetricError, match="were not extracted: held"):
        run_extractor(*asked)
    assert subprocess.run([sys.executable, "-c", held, lock], check=False).returncode == 0


def test_the_other_program_is_told_everything(tmp_path: Path):
    made = Extraction(weights={"i3d": Path("a.pt"), "clap": Path("b")}, device="cuda", allow_code=True)
    line = command(tmp_path / "generated", tmp_path / "out", "generated", SMALL, made)
    assert line[1:] == [
        "-m", "preprocess", "features", "--videos", str(tmp_path / "generated"), "--out", str(tmp_path / "out"),
        "--protocol", "small", "--side", "generated", "--device", "cuda", "--weights", "i3d=a.pt", "clap=b",
        "--allow-code",
    ]  # fmt: skip


def test_without_the_other_program_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extraction.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"pip install 'con360av-jax\[torch,features\]'.*--features GENERATED TARGETS"
    ):
        Extraction().check()
    Extraction(given=(Path(), Path())).check()


def test_weights_are_names_and_paths():
    assert weights_by_name(["i3d=a=b.pt"]) == {"i3d": Path("a=b.pt")}
