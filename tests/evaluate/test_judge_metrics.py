"""Metrics of protocol `scenes` recover what was put into judgements of scenes whose truth is known."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import MetricError
from con360av_jax.evaluate.faults import Faults
from con360av_jax.evaluate.judge_metrics import NAMES, correlation, judge_metrics
from con360av_jax.evaluate.protocols import SCENES, JudgeProtocol
from con360av_jax.evaluate.results import Exclusion, Metric
from con360av_jax.scenes.scene import CLASSES
from con360av_jax.scenes.views import seen_objects
from tests.support.judged_clips import CONFIG, INTACT, SURE, Judged, N, evaluation, judged
from tests.support.scene_clips import value

CLIPS = 12
MIDDLE = 1.0
Measured = tuple[dict[str, Metric], dict[str, dict[str, float]], list[Exclusion]]


@pytest.fixture(scope="module")
def clips() -> list[Judged]:
    return [judged(index, number) for index in range(CLIPS) for number in (0, 1)]


def measured(folder: Path, faults: Faults = INTACT, truth: Path | None = None) -> Measured:
    assert isinstance(SCENES.judge, JudgeProtocol)
    found = judge_metrics(folder, truth or folder / "truth", CONFIG, SCENES.judge, faults, 0, 50)
    return {metric.name: metric for metric in found.metrics}, found.scores, found.exclusions


def shows_object(each: Judged) -> bool:
    return bool(seen_objects(each.scene, MIDDLE, each.viewpoint))


@pytest.fixture(scope="module")
def perfect(clips: Sequence[Judged], tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return measured(evaluation(tmp_path_factory.mktemp("perfect"), clips, clips))


def test_perfect_judgements_of_targets_have_perfect_values(perfect: Measured, clips: Sequence[Judged]):
    metrics, _, exclusions = perfect
    assert tuple(metrics) == NAMES
    with_object = sum(map(shows_object, clips))
    assert 0 < with_object < len(clips)
    for name in ("judge_in_view", "judge_empty_view", "judge_place", "judge_heard"):
        assert metrics[name].value == metrics[name].target == 1, name
    assert metrics["judge_in_view"].clips == with_object
    assert metrics["judge_empty_view"].clips == len(clips) - with_object
    assert metrics["judge_place"].clips == metrics["judge_heard"].clips == len(clips)
    # Of the size of the rounding in the files of truth and of chords between frames.
    for name in ("judge_direction_error", "judge_direction_error_all"):
        assert metrics[name].value == metrics[name].target
        assert metrics[name].target == pytest.approx(0, abs=0.05)
    assert metrics["judge_onsets"].target == pytest.approx(1, abs=0.05)
    assert metrics["judge_onsets"].recordings > 1 and metrics["judge_onsets"].low is not None
    assert "100% of the targets' own" in metrics["judge_place"].note
    reasons = {left.reason for left in exclusions if left.metric == "judge_in_view"}
    assert reasons == {"no object is in view in the middle frame"}


def test_a_turned_view_has_the_error_of_its_turn(clips: Sequence[Judged], tmp_path: Path):
    angle = np.radians(6)
    metrics, scores, _ = measured(evaluation(tmp_path / "a", clips, [each.turned(angle) for each in clips]))
    for each in clips:
        error = scores[each.clip.clip].get("judge_direction_error")
        if error is None:
            continue
        (seen, *_) = seen_objects(each.scene, MIDDLE, each.viewpoint)
        motion = next(item.motion for item in each.scene.objects if item.name == seen.name)
        latitudes = [float(motion.angles(np.array(frame / 4))[1]) for frame in range(CONFIG.clip.frames)]
        wanted = [np.degrees(2 * np.arcsin(np.sin(angle / 2) * np.cos(latitude))) for latitude in latitudes]
        assert min(wanted) - 0.05 <= error <= max(wanted) + 0.05
    error = metrics["judge_direction_error"]
    assert 4.5 < value(error.low) <= value(error.value) <= value(error.high) < 6.1
    assert error.target == pytest.approx(0, abs=0.05)


def test_clips_of_other_scenes_are_at_chance(clips: Sequence[Judged], tmp_path: Path, perfect: Measured):
    moved = [replace(each, view=clips[(place + 6) % len(clips)].view) for place, each in enumerate(clips)]
    metrics, scores, _ = measured(evaluation(tmp_path / "a", clips, moved))
    names = [seen[0].name if (seen := seen_objects(each.scene, MIDDLE, each.viewpoint)) else "" for each in clips]
    there = [each.view[:, :N].max(axis=0) > 0 for each in moved]
    wanted = [float(there[place][CLASSES.index(name)]) for place, name in enumerate(names) if name]
    share = metrics["judge_in_view"]
    assert share.value is not None and share.value <= np.mean(wanted) < 0.6
    assert share.chance is not None and share.note.startswith(f"chance {share.chance:.2f}")
    assert perfect[0]["judge_in_view"].note.startswith("chance 0.")
    unseen = [clip for clip, score in scores.items() if score.get("judge_in_view") == 0]
    assert unseen and all("judge_direction_error" not in scores[clip] for clip in unseen)
    assert {scores[clip]["judge_direction_error_all"] for clip in unseen} == {90.0}
    right = [each.scene.background.palette == clips[(place + 6) % len(clips)].scene.background.palette
             for place, each in enumerate(clips)]  # fmt: skip
    assert metrics["judge_place"].value == pytest.approx(np.mean(right))


def test_an_object_in_every_view_fails_where_there_is_none(clips: Sequence[Judged], tmp_path: Path):
    full = [replace(each, view=each.view.copy()) for each in clips]
    for each in full:
        each.view[:, 0] = SURE
    metrics, _, _ = measured(evaluation(tmp_path / "a", clips, full))
    assert (metrics["judge_empty_view"].value, metrics["judge_empty_view"].target) == (0, 1)
    assert metrics["judge_in_view"].value == 1


def test_heard_classes_count_over_all_clips(clips: Sequence[Judged], tmp_path: Path):
    """One class too many in the first clip, one missing in the second."""
    changed = [replace(each, sounds=each.sounds.copy()) for each in clips]
    there = [{CLASSES.index(item.name) for item in each.scene.objects} for each in clips]
    changed[0].sounds[:, min(set(range(N)) - there[0])] = SURE
    changed[1].sounds[:, min(there[1])] = -SURE
    metrics, scores, _ = measured(evaluation(tmp_path / "a", clips, changed))
    total = sum(map(len, there))
    hits, found = total - 1, total
    assert metrics["judge_heard"].value == pytest.approx(2 * hits / (found + total))
    assert scores[clips[0].clip.clip]["judge_heard"] == pytest.approx(2 * len(there[0]) / (2 * len(there[0]) + 1))
    assert metrics["judge_heard"].target == 1


def test_audio_of_another_scene_does_not_follow_the_video(clips: Sequence[Judged], tmp_path: Path, perfect: Measured):
    moved = [replace(each, sounds=clips[(place + 6) % len(clips)].sounds) for place, each in enumerate(clips)]
    metrics, _, exclusions = measured(evaluation(tmp_path / "a", clips, moved))
    onsets = metrics["judge_onsets"]
    assert onsets.value is not None and onsets.value < 0.5 and onsets.target == perfect[0]["judge_onsets"].target
    steady = [left for left in exclusions if left.metric == "judge_onsets" and left.reason.startswith("target:")]
    assert onsets.clips == metrics["judge_in_view"].clips - len(steady)


def test_correlation_is_pearson_s_and_0_for_what_does_not_vary():
    random = np.random.default_rng(0)
    one, other = random.uniform(size=(2, 8))
    assert correlation(one, other) == pytest.approx(np.corrcoef(one, other)[0, 1])
    assert correlation(one, np.full(8, 0.3)) == 0


def test_faulty_targets_are_left_out_and_a_scene_without_truth_is_an_error(clips: Sequence[Judged], tmp_path: Path):
    folder = evaluation(tmp_path / "a", clips, clips)
    black = {clips[0].clip.clip: "its video is black"}
    metrics, _, exclusions = measured(folder, Faults(generated=INTACT.generated, targets={"audio": {}, "video": black}))
    assert metrics["judge_place"].clips == len(clips) - 1 and metrics["judge_heard"].clips == len(clips)
    told = {left.metric: left.reason for left in exclusions if left.clip == clips[0].clip.clip}
    assert told["judge_place"] == told["judge_onsets"] == "target: its video is black"
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(MetricError, match="has no truth of record scene_000000/0/0: give --truth"):
        measured(folder, truth=tmp_path / "elsewhere")
