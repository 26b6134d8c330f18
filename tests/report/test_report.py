"""The report page: complete, self-contained, and explicit about missing input."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.data.fake import fake_sample
from con360av_jax.data.writer import write_dataset
from con360av_jax.errors import CheckpointError, MediaError, MetricError
from con360av_jax.evaluate.results import Metric, Results, write_results
from con360av_jax.media.files import write_clip
from con360av_jax.pages import plots
from con360av_jax.pages.figures import draw_footprint, saliency_overlay
from con360av_jax.report.build import write_report
from con360av_jax.report.history import (
    held_out_curves,
    loss_table,
    read_history,
    seconds_in_steps,
    speed_curves,
    speed_table,
)
from con360av_jax.report.samples import sample_grid
from con360av_jax.sphere.geometry import basd
from con360av_jax.train.run_folder import write_run


def metrics_line(step: int, **changed: object) -> dict[str, object]:
    """One line of the metrics log on a CPU, where memory is unknown."""
    losses = {"loss": 2.0 / step, "loss_audio": 0.5 / step, "loss_video": 1.5 / step}
    by_timestep = {"audio": [0.9 / step, None, 0.2, 0.1], "video": [None, None, None, None]}
    speed = {"clips_per_second": 10.0, "step_seconds": 0.2, "data_stall": 0.25, "mfu": None, "memory_peak_gib": None}
    return {"step": step, **losses, "gradient_norm": 1.0, "loss_by_timestep": by_timestep, **speed, **changed}


def write_lines(path: Path, lines: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def logs(folder: Path, tmp_path: Path) -> Path:
    """A run folder whose logs a test may overwrite."""
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    return run


@pytest.fixture(scope="module")
def folder(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with five logged steps, a dataset of one sample, and one clip made from it."""
    root = tmp_path_factory.mktemp("report")
    (root / "base").mkdir()
    (root / "base" / "report.json").write_text(json.dumps({"origin": "random weights, seed 0"}))
    sample = fake_sample(tiny, 0)
    write_dataset(root / "dataset", [sample], tiny, tuple(sample.arrays), [], {})
    write_run(root / "run", tiny, root / "base", root / "dataset")
    write_lines(root / "run" / "metrics.jsonl", [metrics_line(step) for step in range(1, 6)])
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
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert page.count("<svg") == page.count("</svg>") == 4 + 3 + 2, "losses, speed, waveforms and mels"
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
    with pytest.raises(CheckpointError, match="is not a training run"):
        write_report(folder / "dataset", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_losses_stand_per_modality_and_per_range_of_timesteps(folder: Path, tiny: Config):
    history = read_history(folder / "run")
    # The last tenth of five lines is the fifth alone.
    assert loss_table(history, tiny) == {
        "audio": pytest.approx([0.1, 0.18, None, 0.2, 0.1]),
        "video": [pytest.approx(0.3), None, None, None, None],
    }
    page = write_report(folder / "run", folder / "losses.html").read_text()
    assert [name for name in ("0–249", "250–499", "500–749", "750–999") if f">{name}<" not in page] == []
    assert 'aria-label="Audio by timestep over training steps"' in page


def test_speed_is_summed_up_and_what_no_device_tells_is_a_dash(folder: Path):
    history = read_history(folder / "run")
    rows = {row["short"]: row["numbers"] for row in speed_table(history)}
    assert rows["clips/s"] == (10.0, 10.0, 10.0, 10.0)
    assert rows["% waiting for data"] == (25.0, 25.0, 25.0, 25.0)
    assert rows["% MFU"] == rows["GiB memory peak"] == (None, None, None, None)
    assert len(speed_curves(history)) == 3
    assert seconds_in_steps(history) == pytest.approx(5 * 0.2)


def test_a_resumed_run_is_one_curve_and_a_run_at_work_is_shown_up_to_its_last_whole_line(logs: Path):
    write_lines(logs / "metrics.jsonl", [metrics_line(step) for step in (10, 20, 25, 30)])
    with (logs / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "loss": 0.')
    assert read_history(logs).steps == [10, 20, 25, 30]
    assert "trained for <strong>30 steps" in write_report(logs, logs / "report.html").read_text()


@pytest.mark.parametrize("steps", [(10, 20, 20), (10, 20, 15)])
def test_steps_that_do_not_increase_are_refused(logs: Path, steps: tuple[int, ...]):
    write_lines(logs / "metrics.jsonl", [metrics_line(step) for step in steps])
    with pytest.raises(CheckpointError, match="its steps do not increase"):
        write_report(logs, logs / "report.html")
    assert not (logs / "report.html").exists()


def validation_lines(*losses: tuple[int, float]) -> list[dict[str, object]]:
    """Both lines of validations, given as steps and losses of the moving average."""
    return [
        {"step": step, "weights": weights, "loss": 2 * value, "loss_audio": value, "loss_video": value,
         "loss_by_timestep": {name: [value] * 4 for name in ("audio", "video")}}
        for step, ema in losses
        for weights, value in (("ema", ema), ("raw", 0.1))
    ]  # fmt: skip


def test_held_out_losses_stand_beside_those_of_training_and_the_best_step_is_named(logs: Path, tiny: Config):
    assert "Held-out" not in write_report(logs, logs / "report.html").read_text()
    write_lines(logs / "validation.jsonl", validation_lines((2, 0.7), (4, 0.5), (6, 0.6)))
    past = read_history(logs)
    assert len(held_out_curves(past, tiny)) == 4
    page = write_report(logs, logs / "report.html").read_text()
    for text in ("held out, moving average", "held out, trained weights", "Held-out video by timestep", ">training<"):
        assert text in page
    assert "at step 4: audio 0.5, video 0.5" in " ".join(page.split())


def test_few_values_among_many_steps_are_not_averaged_over_each_other(logs: Path, tiny: Config):
    """Held-out losses are rare: a window of a twentieth of all steps would hold every one of them."""
    write_lines(logs / "metrics.jsonl", [metrics_line(step) for step in range(1, 201)])
    write_lines(logs / "validation.jsonl", validation_lines((50, 0.9), (100, 0.1)))
    past, values = read_history(logs), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "running_mean", lambda found, window: values.append((len(found), window)) or found)
        held_out_curves(past, tiny)
    assert values[:3] == [(200, 10), (2, 1), (2, 1)]


def test_sample_clips_stand_in_a_grid_of_first_middle_and_last_step(logs: Path, folder: Path):
    for step in (10, 20, 30, 40, 50):
        for seed, key in enumerate(("b/0/0", "a/0/0")):
            path = logs / "samples" / str(step) / f"{key.replace('/', '_')}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "viewpoint_1.mp4", path)
            card = {"caption": f"scene <{key}>", "seed": seed, "maps_key": key}
            if (step, seed) != (50, 1):
                path.with_suffix(".json").write_text(json.dumps(card))
    grid = sample_grid(logs)
    assert (grid["steps"], grid["hidden"]) == ([10, 30, 50], 2)
    assert [(row["seed"], sorted(row["clips"])) for row in grid["rows"]] == [(0, [10, 30, 50]), (1, [10, 30])]
    page = write_report(logs, logs / "report.html").read_text()
    assert page.count("<video src=") == 5
    assert "scene &lt;b/0/0&gt;" in page and "Clips of 2 more steps" in " ".join(page.split())


def test_skipped_steps_and_corrupt_checkpoints_are_listed(logs: Path):
    assert "no checkpoint and no record was found corrupt" in write_report(logs, logs / "report.html").read_text()
    bad = {"loss": "nan", "gradient_norm": "inf", "sample_ids": [4, 2], "skipped": True}
    write_lines(logs / "nonfinite.jsonl", [{"step": step, **bad} for step in range(1, 24)])
    (logs / "checkpoints" / "4.damaged").mkdir(parents=True)
    page = write_report(logs, logs / "report.html").read_text()
    assert "Step 1: loss nan, gradient norm inf; the step was skipped. Sample ids [4, 2]." in page
    assert "And 3 more such steps" in page
    assert "Checkpoint 4 was found corrupt" in page


def test_corrupt_records_are_listed(logs: Path):
    write_lines(
        logs / "damaged-0.jsonl", [{"record": number, "reason": f"record {number}: <bad>"} for number in (7, 3)]
    )
    write_lines(logs / "damaged-2.jsonl", [{"record": 3, "reason": "record 3: <bad>"}])
    page = write_report(logs, logs / "report.html").read_text()
    assert page.count("Corrupt and skipped: record 3: &lt;bad&gt;.") == 1
    assert page.index("record 3:") < page.index("record 7:")


def test_a_month_of_lines_is_a_page_of_moderate_size_and_its_peaks_do_not_flatten_the_rest(logs: Path):
    lines = [metrics_line(step, loss=1000.0 if step == 3000 else 0.5) for step in range(1, 5001)]
    write_lines(logs / "metrics.jsonl", lines)
    page = write_report(logs, logs / "report.html").read_text()
    assert len(page) < 1_000_000
    assert "peaks up to 1e+03 are cut off" in page


def test_colours_come_from_the_page_so_that_it_can_be_light_or_dark(folder: Path):
    (drawing, *_) = speed_curves(read_history(folder / "run"))
    assert "var(--ink)" in drawing and "var(--video)" in drawing
    assert not re.search(r"(?:stroke|fill): ?#", drawing)


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


def test_evaluations_of_the_run_stand_on_its_page_with_a_link_to_their_own(logs: Path):
    evaluation = logs / "evaluation" / "small"
    evaluation.mkdir(parents=True)
    metric = Metric(
        name="s_kl",
        title="S_KL (FastGaze <1>)",
        unit="nats",
        lower_is_better=True,
        value=0.08,
        low=0.07,
        high=0.09,
        clips=12,
    )
    results = Results(
        protocol={"name": "small"}, made_from={}, metrics=(metric,), clips=(), command="con360av evaluate"
    )
    write_results(results, evaluation)
    page = write_report(logs, logs / "report.html").read_text()
    assert "S_KL (FastGaze &lt;1&gt;), nats" in page
    assert "0.070 to 0.090" in page
    assert "metrics.html" not in page
    (evaluation / "metrics.html").write_text("")
    assert 'href="evaluation/small/metrics.html"' in write_report(logs, logs / "report.html").read_text()
    (evaluation / "metrics.json").write_text("{")
    with pytest.raises(MetricError, match=r"metrics\.json cannot be read"):
        write_report(logs, logs / "report.html")
