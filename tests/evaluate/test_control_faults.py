"""Silent and black clips in control metrics: those of a model count against it, those of the targets are left out."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import MetricError
from tests.support.scene_clips import CONFIG, View, evaluation, measured, value, view, write_part


@pytest.fixture(scope="module")
def views() -> list[View]:
    return [view(index) for index in range(4)]


def test_silent_and_black_generated_clips_count_against_the_model(tmp_path: Path, views: list[View]):
    silent = replace(views[0], sound=np.zeros_like(views[0].sound))
    black = replace(views[1], pictures=np.zeros_like(views[1].pictures))
    clips = [each.clip.clip for each in views[:4]]
    intact, _, before = measured(evaluation(tmp_path / "a", views[:4], views[:4]))
    metrics, scores, exclusions = measured(evaluation(tmp_path / "b", views[:4], [silent, black, *views[2:4]]))
    assert [scores[clip]["av_align"] for clip in clips[:2]] == [0, 0]
    assert scores[clips[1]]["share_in_view"] == 0 and scores[clips[1]]["direction_error_all"] == 90
    more = {(left.clip, left.metric) for left in exclusions} - {(left.clip, left.metric) for left in before}
    assert more == {(clips[1], "direction_error")}
    for name, sign in (("av_align", 1), ("share_in_view", 1), ("direction_error_all", -1)):
        assert metrics[name].clips == intact[name].clips == 4
        assert sign * value(metrics[name].value) < sign * value(intact[name].value)
        assert metrics[name].target == intact[name].target


def test_clips_with_silent_or_black_targets_are_left_out(tmp_path: Path, views: list[View]):
    silent = replace(views[0], sound=np.zeros_like(views[0].sound))
    black = replace(views[1], pictures=np.zeros_like(views[1].pictures))
    metrics, scores, exclusions = measured(evaluation(tmp_path / "a", [silent, black, *views[2:4]], views[:4]))
    told = {(left.metric, left.clip[:12]): left.reason for left in exclusions}
    assert told["av_align", "scene_000000"] == "target: its audio is silent"
    for name in ("av_align", "share_in_view", "direction_error", "direction_error_all"):
        assert told[name, "scene_000001"] == "target: its video is black"
        assert metrics[name].clips <= 3
    assert "scene_000001_0_0" not in scores and set(scores["scene_000000_0_0"]) >= {"share_in_view"}


def test_a_generated_clip_without_features_is_an_error(tmp_path: Path, views: list[View]):
    folder = evaluation(tmp_path / "a", views[:3], views[:3])
    shutil.rmtree(folder / "features" / "generated" / "saliency")
    even = np.ones((CONFIG.clip.frames, 6, 6), np.float32)
    write_part(folder, "generated", "saliency", views[:2], lambda each: even)
    with pytest.raises(MetricError, match="saliency lacks scene_000002_0_0, which counts: was not extracted"):
        measured(folder)
