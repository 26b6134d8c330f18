"""CLAP from folders that transformers saves: sounds of any length; other folders are refused."""
# ruff: noqa: E402 -- imports that need torch come after asking for it

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from con360av_jax.errors import CheckpointError, MediaError

torch = pytest.importorskip("torch", reason="CLAP runs in PyTorch: pip install -e '.[torch]'")

from safetensors.torch import load_file, save_file
from transformers import ClapFeatureExtractor, ClapModel

from preprocess.features.clap import CLAP, open_clap
from tests.support.tiny_clap import write_clap

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLAP with random weights, of half a second."""
    return write_clap(tmp_path_factory.mktemp("clap"), hop_length=480, max_length_s=1, fft_window_size=1024)


@pytest.fixture(scope="module")
def clap(folder: Path) -> CLAP:
    return open_clap(folder)


def sounds(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.uniform(-0.5, 0.5, length).astype(np.float32) for length in lengths]


def test_it_is_called_what_its_config_says(folder: Path, tmp_path: Path):
    sizes = "CLAP: HTSAT of depths 1-1 and width 8, without fusion, text of depth 1 and width 8, embeddings of 12"
    assert open_clap(folder).described == sizes
    named = tmp_path / "named"
    shutil.copytree(folder, named)
    config = json.loads((named / "config.json").read_text())
    (named / "config.json").write_text(json.dumps({**config, "_name_or_path": "laion/clap-htsat-unfused"}))
    assert open_clap(named).described == f"{sizes} (laion/clap-htsat-unfused)"


def test_embeddings_have_unit_length_and_do_not_feel_the_sounds_beside_them(clap: CLAP):
    assert clap.sample_rate == 48_000
    given = sounds(*[20_000, 48_000, 1_000, 60_000] * 3)
    together = clap(given)
    assert together.shape == (12, 12)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(together, np.concatenate([clap([sound]) for sound in given]), rtol=0, atol=1e-5)
    assert clap([]).shape == (0, 12)


def test_short_sounds_are_repeated_whole_and_long_ones_count_from_the_start(clap: CLAP):
    short, long = sounds(20_000, 100_000)
    repeated = np.concatenate([short, short, np.zeros(8_000, np.float32)])
    np.testing.assert_allclose(clap([short]), clap([repeated]), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(clap([long]), clap([long[:48_000]]))


def test_an_embedding_is_what_transformers_gives(clap: CLAP, folder: Path):
    (sound,) = sounds(48_000)
    given = ClapFeatureExtractor.from_pretrained(folder)(sound, sampling_rate=48_000, return_tensors="pt")
    with torch.inference_mode():
        answer: Any = ClapModel.from_pretrained(folder).eval().get_audio_features(**given)
    np.testing.assert_allclose(clap([sound]), answer.pooler_output.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "sound", [np.zeros(0, np.float32), np.zeros((9, 2), np.float32), np.zeros(9), np.full(9, np.nan, np.float32)]
)
def test_sounds_of_another_kind_are_refused(clap: CLAP, sound: np.ndarray):
    with pytest.raises(MediaError, match=r"wanted float32 \(sample,\)"):
        clap([sound])


def test_other_folders_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        open_clap(tmp_path)
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    with pytest.raises(CheckpointError, match="is no ClapModel"):
        open_clap(tmp_path)
    state = load_file(folder / "model.safetensors")
    first, second = sorted(name for name in state if name.startswith("audio_projection"))[:2]
    state["stranger"] = state.pop(first)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"2 problems: {first} is missing; stranger is unexpected"):
        open_clap(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        open_clap(tmp_path)
    assert second in state
