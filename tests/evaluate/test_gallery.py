"""con360av gallery: the first and the worst clips on one page that needs no other file, or as one picture."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from con360av_jax import cli
from con360av_jax.config.settings import Config
from con360av_jax.data.fake import fake_sample
from con360av_jax.data.writer import write_dataset
from con360av_jax.evaluate.results import write_results
from con360av_jax.evaluate.selection import EvaluatedClip, write_clips
from tests.support.evaluation_pages import EVIL, Read, clip, results, write_videos

COUNT = 5


@pytest.fixture(scope="module")
def evaluation(lean: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips of a dataset with one preview; the later a clip, the worse."""
    folder = tmp_path_factory.mktemp("gallery")
    samples = [fake_sample(lean, number, fields=("saliency", "viewpoint")) for number in range(COUNT)]
    write_dataset(folder / "dataset", samples, lean, ("saliency", "viewpoint"), [], {})
    recording, segment, _ = samples[1].key.rsplit("/", 2)
    (folder / "dataset" / "previews").mkdir()
    panorama = np.full((64, 128, 3), 40, np.uint8)
    cv2.imwrite(str(folder / "dataset" / "previews" / f"{recording}_{segment}.jpg"), panorama)
    found = results(COUNT)
    clips = (*found.clips[:4], clip(4, caption=EVIL))
    made_from = {**found.made_from, "dataset": {"path": str(folder / "dataset")}, "sampler": {"steps": 50}}
    found = replace(found, clips=clips, made_from=made_from)
    evaluation = folder / "evaluation"
    write_videos(evaluation, found)
    write_results(found, evaluation)
    write_clips(
        evaluation,
        [
            EvaluatedClip(
                clip=one.clip,
                key=sample.key,
                caption=one.caption,
                start=0.0,
                segment=0,
                viewpoint_index=0,
                seed=0,
                viewpoint=((0.5, 0.1, 1.0, 1.0),) * 4,
            )
            for one, sample in zip(found.clips, samples, strict=True)
        ],
    )
    return evaluation


def headings(page: Path) -> list[str]:
    """Names of the shown clips, in order."""
    text = page.read_text()
    return [part.partition("</h3>")[0] for part in text.split("<h3>")[1:]]


def test_the_first_and_the_worst_clips_are_inside_one_file(evaluation: Path, tmp_path: Path, capsys):
    timings = tmp_path / "timings.json"
    timings.write_text(json.dumps([{"name": "A step", "command": "con360av x", "seconds": 1.25}]))
    out = tmp_path / "page.html"
    options = ["--count", "2", "--worst", "3", "--note", "Only scenes", "--timings", str(timings), "--out", str(out)]
    assert cli.main(["gallery", str(evaluation), *options]) == 0
    assert f"Open {out}" in capsys.readouterr().out
    assert headings(out) == ["scene_0", "scene_1", "scene_4", "scene_3", "scene_2"], "worst first"
    page = Read(out)
    assert page.files() == [], "everything is inside"
    videos = [given["src"] for tag, given in page.elements if tag == "video"]
    assert len(videos) == 10
    target = base64.b64decode((videos[0] or "").partition("base64,")[2])
    assert target == (evaluation / "targets" / "scene_0.mp4").read_bytes()
    for said in ("Only scenes.", "A step", "1.2 s", "0.50", EVIL, "S_KL (FastGaze)"):
        assert said in page.text, said
    assert EVIL not in out.read_text()
    assert page.text.count("Panorama (equirectangular)") == 1, "of the one segment with a preview"


def test_a_gallery_without_its_dataset_has_all_clips(evaluation: Path, tmp_path: Path):
    moved = evaluation.parent / "elsewhere"
    (evaluation.parent / "dataset").rename(moved)
    try:
        assert cli.main(["gallery", str(evaluation), "--out", str(tmp_path / "page.html")]) == 0
    finally:
        moved.rename(evaluation.parent / "dataset")
    assert len(headings(tmp_path / "page.html")) == COUNT
    assert "Panorama" not in (tmp_path / "page.html").read_text()


def test_a_picture_has_the_first_clips_and_no_others(evaluation: Path, tmp_path: Path):
    sizes = []
    for count in (1, 2, 3):
        out = tmp_path / f"{count}.jpg"
        assert cli.main(["gallery", str(evaluation), "--out", str(out), "--count", str(count)]) == 0
        picture = cv2.imread(str(out))
        assert picture is not None
        sizes.append(picture.shape[:2])
    assert sizes[1][1] == 2 * sizes[0][1] and sizes[2][0] == 2 * sizes[1][0]
    again = tmp_path / "again.jpg"
    assert cli.main(["gallery", str(evaluation), "--out", str(again), "--count", "3"]) == 0
    assert again.read_bytes() == (tmp_path / "3.jpg").read_bytes()


def test_wrong_use_is_one_line(evaluation: Path, tmp_path: Path, capsys):
    for words, line in (
        ([str(tmp_path)], "metrics.json cannot be read"),
        ([str(evaluation), "--out", "a.gif"], "--out a.gif: give a name that ends in .html, .jpg or .png"),
        ([str(evaluation), "--count", "0"], "--count 0 --worst 0: give 1 clip or more"),
        ([str(evaluation), "--out", "a.png", "--worst", "2"], "are for pages: leave them out"),
        ([str(evaluation), "--timings", "nothing"], "--timings nothing: no such file"),
    ):
        assert cli.main(["gallery", *words]) == 2
        captured = capsys.readouterr()
        assert line in captured.err and captured.err.count("\n") == 1


def test_a_clip_that_is_missing_is_named(evaluation: Path, tmp_path: Path, capsys):
    lost = evaluation / "generated" / "scene_0.mp4"
    lost.rename(tmp_path / "away.mp4")
    try:
        assert cli.main(["gallery", str(evaluation), "--out", str(tmp_path / "page.html")]) == 2
    finally:
        (tmp_path / "away.mp4").rename(lost)
    assert f"no such clip: {lost}" in capsys.readouterr().err
