"""The encode stage asks the codecs no more often than it must, and refuses a base that was made with other settings."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from con360av_jax.base.record_encoder import PretrainedEncoder, open_encoder
from con360av_jax.config.settings import Config
from con360av_jax.data.schema import ENCODED_FIELDS, field_specs
from con360av_jax.errors import CheckpointError, ConfigError


class RecordingCodecs:
    """Stands for the frozen encoders: arrays of the right shapes, and a list of what was asked."""

    asked: list[str] = []

    def __init__(self, pretrained: SimpleNamespace):
        self.specs = field_specs(pretrained.config)

    def encode_video(self, view: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append("video")
        return self._moments("video", float(view.mean()))

    def encode_mel(self, mel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append("mel")
        return self._moments("audio", float(mel.mean()))

    def encode_text(self, captions: list[str]) -> dict[str, np.ndarray]:
        self.asked += captions
        return {
            "audio": np.zeros((len(captions), *self.specs["clap_text"].shape), np.float32),
            "video": np.ones((len(captions), *self.specs["clip_text"].shape), np.float32),
        }

    def _moments(self, name: str, value: float) -> tuple[np.ndarray, np.ndarray]:
        shape = self.specs[f"{name}_latent_mean"].shape
        return np.full(shape, value, np.float32), np.full(shape, value + 1, np.float32)


@pytest.fixture
def base(tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that opens as a pretrained one of the tiny config."""
    pretrained = SimpleNamespace(open_pretrained=lambda folder: SimpleNamespace(config=tiny))
    monkeypatch.setitem(sys.modules, "con360av_jax.base.pretrained", pretrained)
    monkeypatch.setitem(sys.modules, "con360av_jax.base.codecs", SimpleNamespace(Codecs=RecordingCodecs))
    monkeypatch.setattr(RecordingCodecs, "asked", [])
    return tmp_path


def test_each_caption_and_each_mel_is_encoded_once_and_each_view_always(tiny: Config, base: Path):
    encoder = PretrainedEncoder(base, tiny)
    views = [np.full((4, 16, 16, 3), grey, np.uint8) for grey in (10, 20)]
    mels = [np.full((100, 32), level, np.float32) for level in (-3, -4)]
    encoded = [encoder(view, mel, "a walk") for mel in mels for view in views]
    assert sorted(RecordingCodecs.asked) == ["a walk", "mel", "mel", "video", "video", "video", "video"]
    for arrays, mel, grey in zip(encoded, (-3, -3, -4, -4), (10, 20, 10, 20), strict=True):
        assert {name: array.shape for name, array in arrays.items()} == {
            name: field_specs(tiny)[name].shape for name in ENCODED_FIELDS
        }
        assert arrays["audio_latent_mean"].max() == mel
        assert arrays["video_latent_mean"].max() == grey
        assert arrays["video_latent_std"].max() == grey + 1


def test_a_base_of_another_mel_is_refused(tiny: Config, base: Path):
    other = replace(tiny, mel=replace(tiny.mel, floor=1e-4))
    with pytest.raises(ConfigError, match="other settings of mel"):
        PretrainedEncoder(base, other)


def test_a_missing_base_is_an_error_and_none_encodes_nothing(tiny: Config, tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such pretrained folder"):
        open_encoder(str(tmp_path / "nothing"), tiny)
    assert open_encoder("none", tiny).fields == ()
