"""The report page: whole, self-contained, and clear about what is missing."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.config import Config
from con360av_jax.data.fake import fake_sample
from con360av_jax.data.writer import write_dataset
from con360av_jax.errors import CheckpointError, MediaError
from con360av_jax.geometry import basd
from con360av_jax.media import write_clip
from con360av_jax.report.build import write_report
from con360av_jax.report.figures import draw_footprint, saliency_overlay
from con360av_jax.train.run_folder import write_run


@pytest.fixture(scope="module")
def folder(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with five logged steps, a dataset of one sample, and one clip made from it."""
    root = tmp_path_factory.mktemp("report")
    (root / "base").mkdir()
    (root / "base" / "report.json").write_text(json.dumps({"origin": "random weights, seed 0"}))
    lines = [{"step": n, "loss": 2.0 / n, "loss_audio": 1.0 / n, "loss_video": 1.0 / n} for n in range(1, 6)]
    sample = fake_sample(tiny, 0)
    write_dataset(root / "dataset", [sample], tiny, tuple(sample.arrays), [], {})
    write_run(root / "run", tiny, root / "base", root / "dataset")
    (root / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sound = (0.1 * np.sin(np.arange(tiny.mel.sample_rate) / 5)).astype(np.float32)
    clip = root / "viewpoint_1.mp4"
    write_clip(clip, sample.arrays["video"], tiny.clip.frames_per_second, sound, tiny.mel.sample_rate)
    clip.with_suffix(".json").write_text(
        json.dumps({"caption": sample.caption, "seed": 3, "maps_key": sample.key, "trained_steps": 5})
    )
    track, (height, width) = sample.arrays["viewpoint"], sample.arrays["saliency"].shape[1:3]
    np.savez(
        clip.with_suffix(".npz"),
        saliency=sample.arrays["saliency"],
        basd=basd(track, height, width)[..., None],
        viewpoint=track,
    )
    return root


def test_the_page_holds_everything_and_needs_no_other_file(folder: Path):
    page = write_report(
        folder / "run", folder / "report.html", clips=[folder / "viewpoint_1.mp4"], dataset=folder / "dataset"
    ).read_text()
    assert page.count('<video src="data:video/mp4;base64,') == 2, "the generated clip and its target"
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "trained for <strong>5 steps</strong>" in page
    assert "random weights, seed 0" in page
    assert fake_caption(folder) in page
    assert "&#34;learning_rate&#34;: 0.001" in page


def fake_caption(folder: Path) -> str:
    return json.loads((folder / "viewpoint_1.json").read_text())["caption"]


def test_without_a_dataset_the_page_shows_the_clip_alone(folder: Path):
    page = write_report(folder / "run", folder / "alone.html", clips=[folder / "viewpoint_1.mp4"]).read_text()
    assert page.count("<video src=") == 1
    assert fake_caption(folder) in page


def test_what_is_missing_is_named_and_no_page_is_left(folder: Path, tmp_path: Path):
    with pytest.raises(MediaError, match=r"nothing\.mp4 is missing"):
        write_report(folder / "run", tmp_path / "report.html", clips=[folder / "nothing.mp4"])
    with pytest.raises(CheckpointError, match="no training run"):
        write_report(folder / "dataset", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_footprint_over_the_seam_has_no_line_along_the_pictures_edge():
    blank = np.zeros((100, 200, 3), np.uint8)
    drawn = draw_footprint(blank, np.array([np.pi, 0.0, 1.0, 1.0]), 0, thickness=2)
    rows = np.flatnonzero(drawn[:, 0].any(axis=1))
    assert 0 < len(rows) < 20, "only the outline above and below and the number cross the edge, not all 33 rows inside"


def test_saliency_colours_only_what_is_salient():
    panorama = np.full((40, 80, 3), 100, np.uint8)
    saliency = np.zeros((10, 20))
    saliency[2:4, 3:6] = 1.0
    overlay = saliency_overlay(panorama, saliency)
    assert (overlay[30:, 40:] == 100).all()
    assert (overlay[10:14, 14:22] != 100).any()
