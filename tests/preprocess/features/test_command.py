"""python -m preprocess features: weights by path, protocols to the letter, and a killed run that goes on."""
# ruff: noqa: E402 -- imports that need torch come after asking for it

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import ConfigError
from con360av_jax.evaluate.features import open_features, require_same_card
from con360av_jax.evaluate.protocols import FADTK, PAPER, PROTOCOLS, SCENES, SMALL, STYLEGANV, VIDEOGPT, parts
from con360av_jax.media.files import read_audio, write_clip
from preprocess.cli import main
from tests.support.audio_files import write_wav
from tests.support.killed_command import run_killed
from tests.support.small_networks import RATE, pictures, sound, write_clips
from tests.support.tiny_world import files_below
from tests.support.vxm_file import random_entries, write_file

pytest.importorskip("torch", reason="feature networks run in PyTorch: pip install -e '.[torch]'")

from preprocess.features import clips
from preprocess.features.networks import MODELS, model_of, wanted_parts
from preprocess.features.opening import window_start
from tests.support.tiny_clap import write_clap

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "videos", 4)


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLAP with random weights that hears ten seconds."""
    return write_clap(tmp_path_factory.mktemp("clap"), hop_length=2400, max_length_s=10, fft_window_size=4096)


@pytest.fixture
def i3d(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of I3D's, and a network of two numbers that says which pictures it is given."""

    def open_i3d(weights: Path, convention: str, device: str, *, allow_code: bool):
        return lambda given: np.array([[given[0, 0].mean(), given.shape[1]]], np.float32)

    monkeypatch.setattr(clips, "open_i3d", open_i3d)
    (tmp_path / "i3d.pt").write_text("weights")
    return tmp_path / "i3d.pt"


def run(videos: Path, output: Path, protocol: str, *options: object) -> int:
    given = ["--videos", videos, "--out", output, "--protocol", protocol, *options]
    return main(["features", *map(str, given)])


def test_the_parts_of_each_protocol():
    assert parts(PAPER) == ("video_16", "video_32", "saliency", "sound")
    assert parts(STYLEGANV) == ("video_16",)
    assert parts(VIDEOGPT) == ("video_16", "video_32")
    assert parts(FADTK) == ("sound",)
    assert parts(SMALL) == ("saliency", "sound", "classes")
    assert parts(SCENES) == ("view", "sounds", "video_judge", "audio_judge")
    with pytest.raises(ConfigError, match="con360av evaluate judges the clips"):
        wanted_parts(SCENES, (), ())
    for protocol in PROTOCOLS.values():
        if protocol is SCENES:
            continue
        assert {model_of(protocol, part) for part in parts(protocol)} <= set(MODELS.values())


def test_fastgaze_gives_a_map_for_each_picture_whatever_the_batch(tmp_path: Path):
    fastgaze = write_file(tmp_path / "fastgaze.vxm", random_entries())
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(3):
        write_clip(folder / f"clip{number}.mp4", pictures(number, 3), 8.0, None, RATE)
    for batch in (1, 3):
        assert run(folder, tmp_path / str(batch), "small", "--model", "fastgaze", "--batch-size", batch,
                   "--weights", f"fastgaze={fastgaze}") == 0  # fmt: skip
    assert files_below(tmp_path / "1") == files_below(tmp_path / "3")
    found = open_features(tmp_path / "1" / "saliency")
    assert found.values.shape == (9, 30, 30)
    np.testing.assert_allclose(found.values.sum(axis=(1, 2)), 1, atol=1e-5)
    card = found.card
    assert (card.kind, card.model, card.clips) == ("saliency", "FastGaze", 3)
    assert card.settings["size"] == 480
    assert {"torch", "av", "numpy", "opencv-python-headless", "con360av-jax"} <= set(card.packages)
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["saliency"]


@pytest.mark.parametrize("at", [1, 3])
def test_a_killed_run_goes_on_to_the_same_bytes(videos: Path, clap: Path, tmp_path: Path, at: int):
    options = ("--weights", f"clap={clap}", "--batch-size", "2")
    given = ["--videos", videos, "--out", tmp_path / "killed", "--protocol", "fadtk", *options]
    run_killed("preprocess.features.store.PartStore.add", at + 1, ["features", *map(str, given)])
    assert (tmp_path / "killed" / "sound.begun" / "clips.jsonl").read_text().count("\n") == at
    assert run(videos, tmp_path / "killed", "fadtk", *options) == 0
    assert run(videos, tmp_path / "whole", "fadtk", *options) == 0
    assert files_below(tmp_path / "killed") == files_below(tmp_path / "whole")


def test_clap_hears_as_the_protocol_says(clap: Path, tmp_path: Path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    write_wav(folder / "a.wav", sound(0, 4.0), RATE)
    write_clip(folder / "b.mp4", pictures(1, 32), 8.0, sound(1, 4.0), RATE)
    write_wav(folder / "c.wav", np.zeros(RATE, np.float32), RATE)
    for batch in (1, 8):
        output = tmp_path / f"fadtk{batch}"
        assert run(folder, output, "fadtk", "--weights", f"clap={clap}", "--batch-size", batch) == 0
    assert files_below(tmp_path / "fadtk1") == files_below(tmp_path / "fadtk8")
    found = open_features(tmp_path / "fadtk1" / "sound")
    assert [clip.rows for clip in found.clips] == [4, 4, 1]  # the last is a second of silence
    np.testing.assert_array_equal(found.values, found.values.astype(np.float16).astype(np.float32))
    assert not found.rejected and np.isfinite(found.values).all()
    assert {"sample_rate", "resampler", "resampled_by", "padding", "hop_seconds", "rounding"} <= set(
        found.card.settings
    )
    assert len(found.card.weights_sha256) == 64
    assert found.card.model == (
        "CLAP: HTSAT of depths 1-1 and width 8, without fusion, text of depth 1 and width 8, embeddings of 12"
    )
    assert run(folder, tmp_path / "paper", "paper", "--parts", "sound", "--weights", f"clap={clap}") == 0
    assert [clip.rows for clip in open_features(tmp_path / "paper" / "sound").clips] == [1, 1, 1]


def test_a_clap_of_other_windows_is_refused(
    clap: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = tmp_path / "clap"
    shutil.copytree(clap, other)
    settings = json.loads((other / "preprocessor_config.json").read_text())
    text = json.dumps(settings | {"max_length_s": 5, "nb_max_samples": 240_000})
    (other / "preprocessor_config.json").write_text(text)
    assert run(videos, tmp_path / "out", "fadtk", "--weights", f"clap={other}") == 2
    assert "windows of 240000 samples at 48000 Hz, the protocol wants 480000" in capsys.readouterr().err


def test_videos_of_two_lengths_are_two_parts(i3d: Path, tmp_path: Path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_clip(folder / "short.mp4", pictures(0, 20), 8.0, None, RATE)
    write_clip(folder / "long.mp4", pictures(1, 40), 8.0, None, RATE)
    write_clip(folder / "fast.mp4", pictures(1, 40), 30.0, None, RATE)
    options = ("--weights", f"i3d={i3d}", "--model", "i3d")
    assert run(folder, tmp_path / "out", "paper", *options) == 0
    found = {frames: open_features(tmp_path / "out" / f"video_{frames}") for frames in (16, 32)}
    assert [clip.clip for clip in found[16].clips] == ["long", "short"]
    assert [clip.clip for clip in found[32].clips] == ["long"]
    assert found[16].values[:, 1].tolist() == [16, 16]
    assert found[32].values[:, 1].tolist() == [32]
    assert found[16].card.settings["frames"] == 16
    reasons = {str(line["clip"]): str(line["reason"]) for line in found[32].rejected}
    assert reasons["fast"].startswith("has 30 frames per second, the protocol wants 8")
    assert reasons["short"].startswith("has 20 frames, the protocol takes 32")


def test_targets_frames_are_drawn_by_the_clips_name_and_generated_ones_are_the_first(
    i3d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = write_clips(tmp_path / "videos", 1)
    for number in range(6):
        write_clip(folder / f"clip{number}.mp4", pictures(number, 40), 8.0, None, RATE)
    options = ("--weights", f"i3d={i3d}")
    assert run(folder, tmp_path / "none", "styleganv", *options) == 2
    assert "say --side target or --side generated" in capsys.readouterr().err
    for side in ("target", "generated"):
        assert run(folder, tmp_path / side, "styleganv", *options, "--side", side) == 0
    target, generated = (open_features(tmp_path / side / "video_16") for side in ("target", "generated"))
    require_same_card(target, generated)
    assert target.card.settings["window_seed"] == 0
    starts = [window_start(f"clip{number}", 40, 16) for number in range(6)]
    assert len(set(starts)) > 1
    for row, first in zip(target.values, starts, strict=True):
        number = starts.index(first)
        shown = pictures(number, 40)[first].mean()
        assert abs(row[0] - shown) < 3 or starts.count(first) > 1  # H.264 loses a little
    assert [abs(row[0] - pictures(number, 40)[0].mean()) < 3 for number, row in enumerate(generated.values)] == [
        True
    ] * 6
    assert run(folder, tmp_path / "target", "styleganv", *options, "--side", "generated") == 2
    assert "side: target and generated" in capsys.readouterr().err
    drawn = [window_start(f"clip {number}", 20, 16) for number in range(500)]
    assert sorted(set(drawn)) == [0, 1, 2, 3, 4]
    assert min(drawn.count(first) for first in range(5)) > 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("small",), "needs weights of fastgaze, yamnet: give fastgaze=PATH yamnet=PATH"),
        (("large",), "no protocol is called 'large'"),
        (("small", "--parts", "video_16"), "has no part 'video_16': give one of saliency, sound, classes"),
        (("small", "--model", "clap"), "does not use clap: give one of fastgaze, yamnet"),
        (("small", "--parts", "sound", "--model", "fastgaze"), "leave one out"),
        (("small", "--weights", "fastgaze"), "give NAME=PATH"),
        (("small", "--weights", "x=y", "fastgaze=z", "yamnet=w"), "weights of x: no such network"),
        (("small", "--model", "fastgaze", "--weights", "fastgaze=nowhere.vxm"), "nowhere.vxm is no file"),
        (("small", "--device", "abacus"), "PyTorch cannot use it"),
    ],
)
def test_user_errors_are_one_line(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
):
    assert run(videos, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_program_is_not_run_without_leave(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "i3d.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("i3d/constants.pkl", b"")
    assert run(videos, tmp_path / "out", "videogpt", "--weights", f"i3d={path}") == 2
    assert "is a TorchScript program, not weights: refused" in capsys.readouterr().err


def test_real_weights_hear_a_bird_and_name_their_classes(
    shared_models: Path, shared_data: Path, videos: Path, tmp_path: Path
):
    pytest.importorskip("ai_edge_litert", reason="YAMNet needs ai-edge-litert: pip install -e '.[features]'")
    folder = tmp_path / "clips"
    folder.mkdir()
    shutil.copy(videos / "clip0.mp4", folder)
    robin = read_audio(shared_data / "audio" / "librosa_robin.ogg", RATE, seconds=4.0).mean(axis=1)
    write_wav(folder / "robin.wav", robin, RATE)
    weights = [f"{name}={shared_models / file}" for name, file in
               (("fastgaze", "fastgaze.vxm"), ("yamnet", "yamnet.tflite"))]  # fmt: skip
    assert run(folder, tmp_path / "out", "small", "--weights", *weights) == 0
    saliency, heard, classes = (open_features(tmp_path / "out" / part) for part in ("saliency", "sound", "classes"))
    assert saliency.card.weights_sha256.startswith("b76cefc218ec")
    assert heard.card.weights_sha256.startswith("10c95ea3eb9a")
    assert [clip.clip for clip in saliency.clips] == ["clip0"]
    assert [clip.rows for clip in heard.clips] == [clip.rows for clip in classes.clips] == [2, 4]
    names = classes.card.settings["class_names"]
    assert isinstance(names, list)
    best = np.argsort([*classes][1].mean(axis=0))[::-1][:5]
    assert "Bird" in {names[number] for number in best}
    assert heard.values.shape == (6, 1024)
