"""The page of a run of pretraining: losses, held-out measures and examples of each kind."""

import json
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.cli import main
from con360av_jax.config.pretraining import Part
from con360av_jax.config.settings import Config
from con360av_jax.train import run_folder
from tests.support.evaluation_pages import Read
from tests.support.tiny_world import with_part

SPEED = {"clips_per_second": 3.0, "step_seconds": 2.0, "data_stall": 0.1, "mfu": None, "memory_peak_gib": None}
TERMS = {"vae_video": ("l1", "gradient", "kl"), "vae_audio": ("l1", "gradient", "kl"), "vocoder": ("mel",)}
MEASURES = {
    "vae_video": {"psnr": 20.0, "object_psnr": 15.5, "latent_std": 2.0},
    "vae_audio": {"mel_l1": 0.5, "latent_std": 2.0},
    "vocoder": {"mel_l1": 0.5, "round_trip_mel_l1": 0.625},
}


def examples(part: Part) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    kind, pair = {
        "vae_video": ("frames", random.integers(0, 255, (2, 3, 16, 16, 3)).astype(np.uint8)),
        "vae_audio": ("mel", random.standard_normal((2, 3, 20, 32))),
        "vocoder": ("audio", 0.1 * random.standard_normal((2, 3, 1600))),
    }[part]
    return {f"input_{kind}": pair[0], f"output_{kind}": pair[1]}


@pytest.fixture
def folder(tiny: Config, part: Part, tmp_path: Path) -> Path:
    """A run of two logged steps that were never made."""
    base, run = tmp_path / "base", tmp_path / "run"
    base.mkdir()
    (base / "report.json").write_text("{}")
    config = with_part(tiny, "pretrain.vae_video", crop=8)
    run_folder.write_pretraining(run, config, base, part, {"scenes": 5, "version": 2})
    shared = {"gradient_norm": 1.0, "learning_rate": 1e-3, **dict.fromkeys(TERMS[part], 0.25), **SPEED}
    lines = [{"step": step, "loss": 1 / step, **shared} for step in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    line = {"step": 2, "weights": "ema", "loss": 0.5, **MEASURES[part]}
    (run / "validation.jsonl").write_text(json.dumps(line) + "\n")
    np.savez(run / "examples.npz", **examples(part))  # pyright: ignore[reportArgumentType]
    return run


@pytest.mark.parametrize("part", MEASURES)
def test_the_page_shows_losses_measures_and_examples_and_needs_no_other_file(folder: Path, part: Part):
    assert main(["report", str(folder)]) == 0
    page = Read(folder / "report.html")
    assert page.files() == []
    for name in (*TERMS[part], *MEASURES[part], "gradient_norm", "Throughput", "Incidents"):
        assert name in page.text, name
    for name, value in MEASURES[part].items():
        assert f"held out: {name}" in page.text
        assert f"{value:.4g}" in page.text
    images, sounds = {"vae_video": (6, 0), "vae_audio": (0, 0), "vocoder": (0, 6)}[part]
    assert (page.count("img"), page.count("audio")) == (images, sounds)
