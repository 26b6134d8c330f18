"""YAMNet on its published file: it hears a bird as a bird, window by window, and other files are refused."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import CheckpointError, ConfigError, MediaError
from con360av_jax.media.files import read_audio
from preprocess.features.yamnet import SAMPLE_RATE, WINDOW, YAMNet, open_yamnet

BIRDS = {"Bird", "Bird vocalization, bird call, bird song", "Chirp, tweet"}


@pytest.fixture(scope="module")
def published(shared_models: Path) -> Path:
    pytest.importorskip("ai_edge_litert", reason="YAMNet needs ai-edge-litert: pip install -e '.[features]'")
    return shared_models / "yamnet.tflite"


@pytest.fixture(scope="module")
def yamnet(published: Path) -> YAMNet:
    return open_yamnet(published)


@pytest.fixture(scope="module")
def robin(shared_data: Path) -> np.ndarray:
    return read_audio(shared_data / "audio" / "librosa_robin.ogg", SAMPLE_RATE).mean(axis=1)


def whole_windows(sound: np.ndarray) -> np.ndarray:
    return sound[: len(sound) // WINDOW * WINDOW].reshape(-1, WINDOW)


def test_a_robin_is_heard_as_a_bird(yamnet: YAMNet, robin: np.ndarray):
    scores = yamnet(whole_windows(robin)).scores.mean(axis=0)
    best = [yamnet.class_names[number] for number in np.argsort(scores)[::-1][:5]]
    assert set(best) >= BIRDS
    assert scores[yamnet.class_names.index("Bird")] > 0.5
    assert scores[yamnet.class_names.index("Speech")] < 0.1


def test_speech_is_heard_as_speech(yamnet: YAMNet, shared_data: Path):
    sound = read_audio(shared_data / "audio" / "librosa_librispeech_198-209.ogg", SAMPLE_RATE, seconds=5.0)
    scores = yamnet(whole_windows(sound.mean(axis=1))).scores.mean(axis=0)
    assert yamnet.class_names[int(scores.argmax())] == "Speech"


def test_a_window_does_not_depend_on_how_many_are_heard(yamnet: YAMNet, robin: np.ndarray):
    windows = np.stack([robin[start : start + WINDOW] for start in range(0, 4 * 7_680, 7_680)])
    whole = yamnet(windows)
    assert whole.embeddings.shape == (4, 1024)
    assert whole.scores.shape == (4, 521)
    assert {whole.embeddings.dtype, whole.scores.dtype} == {np.dtype(np.float32)}
    for number in (3, 1, 0, 2):
        alone = yamnet(windows[number, None])
        np.testing.assert_array_equal(alone.embeddings[0], whole.embeddings[number])
        np.testing.assert_array_equal(alone.scores[0], whole.scores[number])


def test_embeddings_are_what_the_scores_are_made_from(yamnet: YAMNet, robin: np.ndarray):
    """The last layer a second time, in float32: its 8-bit weights and scales times the embedding, then a sigmoid."""
    heard = yamnet(robin[None, :WINDOW])
    tensors = {tensor["name"]: tensor for tensor in yamnet.interpreter.get_tensor_details()}
    parts = []
    for name in ("tower0/network/layer29/fc/MatMul", "network/layer29/fc/biases"):
        scale, zero = tensors[name]["quantization"]
        parts.append(scale * (yamnet.interpreter.get_tensor(tensors[name]["index"]).astype(np.float64) - zero))
    expected = 1 / (1 + np.exp(-(parts[0] @ heard.embeddings[0] + parts[1])))
    # The file rounds the sums to steps of 0.347, of which half is at most 0.043 after the sigmoid; scores to 1/256.
    np.testing.assert_allclose(heard.scores[0], expected, rtol=0, atol=0.05)
    assert heard.embeddings.min() >= 0
    assert heard.embeddings.max() > 1


@pytest.mark.parametrize(
    "windows",
    [
        np.zeros(WINDOW, np.float32),
        np.zeros((0, WINDOW), np.float32),
        np.zeros((1, WINDOW + 1), np.float32),
        np.zeros((1, WINDOW)),
        np.full((1, WINDOW), np.nan, np.float32),
    ],
)
def test_windows_of_another_kind_are_refused(yamnet: YAMNet, windows: np.ndarray):
    with pytest.raises(MediaError, match="windows .*: wanted"):
        yamnet(windows)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ConfigError, match=r"\[features\]"):
        open_yamnet(tmp_path / "a.tflite")


def test_other_files_are_refused(tmp_path: Path, published: Path):
    path = tmp_path / "a.tflite"
    with pytest.raises(CheckpointError, match="is no file"):
        open_yamnet(path)
    content = published.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="has no yamnet_label_list.txt"):
        open_yamnet(path)
    path.write_bytes(b"no model")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("yamnet_label_list.txt", "\n".join(f"class {number}" for number in range(521)))
    with pytest.raises(CheckpointError, match="is corrupt or no .tflite file"):
        open_yamnet(path)
    path.write_bytes(content.replace(b"layer28/reduce_mean", b"layer28/reduce_MEAN"))
    with pytest.raises(CheckpointError, match="has no embedding"):
        open_yamnet(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("yamnet_label_list.txt", "Speech\nSpeech")
    with pytest.raises(CheckpointError, match="names 2 classes, wanted 521"):
        open_yamnet(path)
