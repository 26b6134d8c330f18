"""The command line: help is fast and light, commands do their work, and errors are one line with exit code 2."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from con360av_jax import cli
from con360av_jax.commands.sample import Sample
from con360av_jax.config.files import save_config
from con360av_jax.config.settings import Config, PerModality
from con360av_jax.errors import ConfigError
from con360av_jax.media.files import probe
from con360av_jax.model import Con360AV
from con360av_jax.runtime import compile_flags
from con360av_jax.runtime.compile_cache import cache_folder, enable_compile_cache
from con360av_jax.train import loop
from tests.support import tiny_world

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(autouse=True)
def no_compile_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CON360AV_CACHE", "off")


@pytest.fixture(scope="module")
def run(lean: Config) -> Path:
    return tiny_world.run(lean)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a failing command writes."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("con360av: error: ") and captured.err.count("\n") == 1
    return captured.err


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from con360av_jax import cli\n"
        "for command in cli.COMMANDS:\n"
        "    assert cli.main([command, '--help']) == 0\n"
        "heavy = {'jax', 'flax', 'cv2', 'av', 'orbax', 'transformers', 'torch', 'ray', 'scipy'}\n"
        "assert not (heavy | {'numpy'}) & set(sys.modules), heavy & set(sys.modules)\n"
        "import convert.cli, preprocess.cli\n"
        "for program in (convert.cli, preprocess.cli):\n"
        "    for command in program.COMMANDS:\n"
        "        assert program.main([command, '--help']) == 0\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "--resume" in finished.stdout and "--caption-faces" in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["synth"], "--out"),
        (["synth", "--out", "x", "--seed", "abc"], "--seed"),
        (["synth", "--out", "x", "--colour", "red"], "--colour"),
        (["synth", "--out", "x", "--clips", "0"], "--clips must be positive"),
        (["init", "--config", "nothing", "--out", "x"], "no config is called 'nothing'"),
        (["init", "--config", "debug", "--out", "x", "--config.train.stepz", "3"], "--config.train.stepz"),
        (["init", "--config", "debug", "--out", "x", "--config.clip.height", "65"], "65x64"),
        (["train", "--base", "x", "--dataset", "y", "--out", "z"], "x does not exist"),
        (["report", "nothing", "--out", "x.html"], "nothing"),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert words in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_field_in_a_config_file_is_named(tiny: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    save_config(tiny, tmp_path / "tiny.json")
    data = json.loads((tmp_path / "tiny.json").read_text())
    data["train"]["learning_rat"] = 1
    (tmp_path / "tiny.json").write_text(json.dumps(data))
    assert "learning_rat" in fails(capsys, "init", "--config", tmp_path / "tiny.json", "--out", tmp_path / "base")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.json"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--viewpoint", "yaw=200"], "yaw=200 is out of range"),
        (["--viewpoint", "jaw=20"], "jaw"),
        (["--trajectory", "nothing.csv"], "nothing.csv"),
        (["--maps", "nothing.npz", "--viewpoint", "yaw=0"], "nothing.npz"),
        (["--maps", "DATASET#no/0/0", "--viewpoint", "yaw=0"], "has no record 'no/0/0'"),
        (["--maps", "nothing#fake_000000/0/0"], "nothing does not exist"),
        (["--seed", "-1"], "seed"),
        (["--steps", "5000"], "5000 sampling steps"),
        (["--checkpoint", "nothing"], "nothing does not exist"),
        (["--checkpoint", "DATASET"], "RUN/checkpoints/STEP"),
        (["--viewpoint", "yaw=0", "--viewpoint", "yaw=1"], "2 viewpoints: give a folder"),
    ],
)
def test_wrong_sampling_is_one_line_and_writes_nothing(
    options: list[str], words: str, run: Path, lean: Config, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    options = [option.replace("DATASET", str(tiny_world.dataset(lean))) for option in options]
    arguments = ["sample", "--checkpoint", run, "--caption", "a bell", "--out", tmp_path / "x.mp4", *options]
    assert words in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_every_spelling_of_a_video_file_is_one(tmp_path: Path):
    for name in ("clip.mp4", "clip.MP4", "clip.mov", "Clip.MoV"):
        assert Sample(checkpoint=tmp_path, out=tmp_path / name)._paths(1) == [tmp_path / name]  # noqa: SLF001
    for name in ("clip.mkv", "clip.AVI"):
        with pytest.raises(ConfigError, match=r"is a file: give a folder or a name that ends in \.mp4 or \.mov"):
            Sample(checkpoint=tmp_path, out=tmp_path / name)._paths(1)  # noqa: SLF001
    folder = Sample(checkpoint=tmp_path, out=tmp_path / "clips")._paths(2)  # noqa: SLF001
    assert folder == [tmp_path / "clips" / f"viewpoint_{number}.mp4" for number in (1, 2)]


def test_no_caption_is_refused(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert "--caption" in fails(capsys, "sample", "--checkpoint", run, "--out", tmp_path / "x.mp4")


def test_a_checkpoint_of_another_config_is_refused(lean: Config, run: Path, capsys, tmp_path: Path):
    arguments = ["train", "--base", tiny_world.base(lean), "--dataset", tiny_world.dataset(lean), "--out", run]
    resumed = [*arguments, "--resume", "--config.train.learning-rate", "3"]
    assert "train.learning_rate: 0.001 -> 3.0" in fails(capsys, *resumed)
    other = ["--config.model.connector.channels", "32", "--out", tmp_path / "new"]
    assert "model.connector.channels: 16 -> 32" in fails(capsys, *arguments[:-2], *other)
    assert "add --resume" in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("received", "code"), [(None, 0), (signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stopped_training_says_so_to_the_shell(
    received: signal.Signals | None, code: int, lean: Config, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given = {}

    def train(
        config: Config, base: Path, dataset: Path, out: Path, *, validation: Path | None, resume: bool, allowed
    ) -> signal.Signals | None:
        given.update(config=config, folders=(base, dataset, out), resume=resume, validation=validation)
        return received

    monkeypatch.setattr(loop, "train", train)
    base, dataset = tiny_world.base(lean), tiny_world.dataset(lean)
    arguments = ["train", "--base", str(base), "--dataset", str(dataset), "--out", str(tmp_path / "run")]
    assert cli.main([*arguments, "--config.train.steps", "9", "--config.mesh.data", "2"]) == code
    assert given["folders"] == (base, dataset, tmp_path / "run") and given["resume"] is False
    assert given["validation"] is None
    assert (given["config"].train.steps, given["config"].mesh.data) == (9, 2)
    assert capsys.readouterr().err.count("\n") == (code == 130)


def test_sample_writes_clips_with_their_control_and_a_card(run: Path, lean: Config, capsys, tmp_path: Path):
    (tmp_path / "turn.csv").write_text("time,yaw,pitch,fov\n0,170,0,90\n1,-170,0,60\n")
    key = "fake_000003/0/0"
    out = tmp_path / "clips"
    maps = f"{tiny_world.dataset(lean)}#{key}"
    viewpoints = ["--viewpoint", "yaw=-30,pitch=5,fov=70", "--trajectory", tmp_path / "turn.csv"]
    arguments = ["sample", "--checkpoint", run, "--maps", maps, *viewpoints, "--seed", 4, "--out", out]
    assert cli.main([str(argument) for argument in arguments]) == 0
    assert capsys.readouterr().err == ""
    names = {f"viewpoint_{number}{kind}" for number in (1, 2) for kind in (".mp4", ".npz", ".json")}
    assert {path.name for path in out.iterdir()} == names
    card = json.loads((out / "viewpoint_1.json").read_text())
    assert (card["caption"], card["seed"], card["maps_key"], card["trained_steps"]) == ("fake scene 3", 4, key, 7)
    with np.load(out / "viewpoint_1.npz") as still, np.load(out / "viewpoint_2.npz") as moving:
        np.testing.assert_allclose(np.rad2deg(still["viewpoint"][2]), [-30, 5, 70, 70], rtol=1e-6)
        np.testing.assert_allclose(np.rad2deg(moving["viewpoint"][2]), [180, 0, 75, 75], rtol=1e-5, atol=1e-5)
        assert still["saliency"].shape == still["basd"].shape == (4, 16, 32, 1)
        np.testing.assert_array_equal(still["saliency"], moving["saliency"])
        assert not np.array_equal(still["basd"], moving["basd"])
    assert probe(out / "viewpoint_2.mp4").has_audio


def test_scales_of_the_maps_reach_the_sampler(run: Path, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def generate_batch(self: Con360AV, *arguments: object) -> None:
        seen.append(arguments[-1])
        raise ConfigError("seen enough")

    monkeypatch.setattr(Con360AV, "generate_batch", generate_batch)
    command = [
        "sample",
        "--checkpoint",
        run,
        "--caption",
        "a bell",
        "--viewpoint",
        "yaw=0",
        "--out",
        tmp_path / "x.mp4",
    ]
    assert "seen enough" in fails(capsys, *command, "--map-guidance", "3", "--saliency-guidance", "2")
    assert seen[0].map_guidance == PerModality(audio=3.0, video=3.0)
    assert seen[0].saliency_guidance == PerModality(audio=2.0, video=2.0)
    assert "--saliency-guidance takes" in fails(capsys, *command, "--saliency-guidance", "much")


def test_the_compile_cache_is_the_user_s_own_and_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import jax

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert enable_compile_cache() is None
    monkeypatch.delenv("CON360AV_CACHE")
    assert cache_folder() == tmp_path / "con360av-jax" / "xla"
    try:
        assert enable_compile_cache() == tmp_path / "con360av-jax" / "xla"
        assert (tmp_path / "con360av-jax" / "xla").stat().st_mode & 0o777 == 0o700
        (tmp_path / "con360av-jax" / "xla").chmod(0o777)
        assert enable_compile_cache() is None
    finally:
        jax.config.update("jax_compilation_cache_dir", str(tiny_world.world() / "xla"))


def test_the_command_line_chooses_fast_convolutions_unless_the_user_has_chosen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    assert cli.main(["--help"]) == 0
    assert os.environ["XLA_FLAGS"] == ""
    monkeypatch.delenv("XLA_FLAGS")
    # Another version may not know the flag, and XLA then ends the process.
    for version, flags in (("0.10.2", True), ("0.12.0.1", False)):
        monkeypatch.setattr(compile_flags, "version", lambda name, version=version: version)
        monkeypatch.delenv("XLA_FLAGS", raising=False)
        assert cli.main(["--help"]) == 0
        assert ("INDIVIDUAL_CONVOLUTION" in os.environ.get("XLA_FLAGS", "")) is flags
