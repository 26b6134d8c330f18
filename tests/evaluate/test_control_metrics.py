"""Control metrics recover what was put into views of procedural scenes: position, presence and class."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import MetricError
from con360av_jax.evaluate.faults import FAULTS
from con360av_jax.evaluate.protocols import SMALL
from con360av_jax.evaluate.run import metric_names
from con360av_jax.evaluate.selection import read_clips, write_clips
from con360av_jax.scenes.scene import CLASSES
from tests.support.scene_clips import (
    View,
    evaluation,
    found,
    largest,
    measured,
    scores_of,
    value,
    view,
    write_part,
    write_truth,
)

TURN = np.radians(25)


@pytest.fixture(scope="module")
def views() -> list[View]:
    return [view(index) for index in range(8)]


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory, views: list[View]) -> Path:
    """Targets, and as generated clips the same scenes seen 25 degrees to the right of the requested viewpoint."""
    return evaluation(tmp_path_factory.mktemp("turned"), views, [view(index, TURN) for index in range(len(views))])


def test_a_target_is_where_it_should_be_and_a_turned_view_as_far_off_as_it_was_turned(turned: Path):
    metrics, scores, exclusions = measured(turned)
    named = metric_names(replace(SMALL, sound=None), truth=True)
    assert list(metrics) == [name for name in named if name not in ("s_kl", *FAULTS)]
    error, share = metrics["direction_error"], metrics["share_in_view"]
    # Of the size of a drawing's own extent: an object has a radius of 5 to 20 degrees.
    assert value(error.target) < 3
    # Along a circle of latitude, so a turn is a little less than its angle.
    assert 18 < value(error.low) <= value(error.value) <= value(error.high) < 27
    assert value(share.target) >= 0.75
    assert value(share.value) >= 0.75
    assert (error.unit, error.lower_is_better, share.lower_is_better) == ("degrees", True, False)
    assert error.clips == sum("direction_error" in score for score in scores.values())
    unseen = {left.clip for left in exclusions if left.metric == "direction_error" and "generated:" in left.reason}
    assert unseen == {clip for clip, score in scores.items() if score["share_in_view"] == 0}
    all_errors = [score.get("direction_error", 90.0) for score in scores.values()]
    assert [score["direction_error_all"] for score in scores.values()] == all_errors
    assert metrics["direction_error_all"].value == pytest.approx(np.mean(all_errors))


def test_the_requested_object_is_not_found_in_clips_of_other_scenes(tmp_path: Path, views: list[View]):
    others = [replace(each, pictures=views[(number + 3) % len(views)].pictures) for number, each in enumerate(views)]
    folder = evaluation(tmp_path / "a", views, others)
    metrics, _, _ = measured(folder)
    share = metrics["share_in_view"]
    assert value(share.value) <= 0.4 < 0.75 <= value(share.target)
    error = metrics["direction_error"]
    assert error.value is None or error.value > 5 * value(error.target)


def test_order_of_clips_does_not_matter(tmp_path: Path, turned: Path, views: list[View]):
    """Clip names in features and in clips.jsonl."""
    folder = evaluation(tmp_path / "a", views[::-1], [view(index, TURN) for index in (3, 1, 0, 2, 7, 6, 4, 5)])
    metrics, scores, exclusions = measured(folder)
    wanted, wanted_scores, wanted_exclusions = measured(turned)
    assert scores == wanted_scores
    assert set(exclusions) == set(wanted_exclusions)
    for name, metric in wanted.items():
        assert value(metrics[name].value) == pytest.approx(value(metric.value), rel=1e-12)
        assert value(metrics[name].target) == pytest.approx(value(metric.target), rel=1e-12)


def test_without_truth_or_features_metrics_are_absent(tmp_path: Path, turned: Path, views: list[View]):
    without = found(turned, None)
    assert [metric.name for metric in without.metrics] == ["av_align"]
    assert all(set(score) == {"av_align"} for score in without.scores.values())
    # Truth of no scene: nothing silent.
    (tmp_path / "none").mkdir()
    nothing = found(turned, tmp_path / "none")
    metrics, exclusions = nothing.metrics, nothing.exclusions
    # No classes were extracted.
    assert [metric.name for metric in metrics[1:]] == ["share_in_view", "direction_error", "direction_error_all"]
    assert [metric.value for metric in metrics[1:]] == [None, None, None]
    assert all("every clip is excluded" in metric.note for metric in metrics[1:])
    assert {left.reason for left in exclusions if left.metric == "share_in_view"} == {"there is no truth of its scene"}


def test_a_clip_that_looks_at_nothing_is_named(tmp_path: Path, views: list[View]):
    folder = evaluation(tmp_path / "a", views[:2], views[:2])
    clips = read_clips(folder)
    down = tuple((yaw, -np.pi / 2, 0.3, 0.3) for yaw, *_ in clips[0].viewpoint)
    write_clips(folder, [replace(clips[0], viewpoint=down), clips[1]])
    _, _, exclusions = measured(folder)
    reasons = {left.metric: left.reason for left in exclusions if left.clip == clips[0].clip}
    assert reasons["share_in_view"] == "no object is in view in the middle frame"


def loudest(each: View) -> str:
    powers = [float(np.mean(np.square(item["loudness"]))) for item in each.scene.truth["objects"]]
    return each.scene.truth["objects"][int(np.argmax(powers))]["class"]


def made_loudest(each: View, name: str) -> View:
    """The view with its largest object changed to class `name` and made the loudest in the ground truth."""
    number = largest(each.scene)
    objects = [
        item | {"class": name, "loudness": [1.0] * len(item["loudness"])}
        if place == number
        else item | {"class": "bell", "loudness": [0.0] * len(item["loudness"])}
        for place, item in enumerate(each.scene.truth["objects"])
    ]
    truth = each.scene.truth | {"objects": objects}
    return replace(each, scene=replace(each.scene, truth=truth))


def write_classes(folder: Path, views: list[View], scores: Callable[[View], np.ndarray]) -> None:
    for side in ("targets", "generated"):
        write_part(folder, side, "classes", views, scores)


@pytest.fixture
def heard(tmp_path: Path, views: list[View]) -> tuple[Path, list[View]]:
    """Eight scenes: a drum is visible and loudest in four, a voice in the other four."""
    named = [made_loudest(each, ("drum", "voice")[number % 2]) for number, each in enumerate(views)]
    folder = evaluation(tmp_path / "a", named, named)
    random = np.random.default_rng(0)
    write_part(folder, "targets", "classes", named, lambda each: scores_of(loudest(each), random))
    return folder, named


def test_a_clip_agrees_when_it_sounds_like_what_is_seen(heard: tuple[Path, list[View]]):
    folder, named = heard
    random = np.random.default_rng(1)
    wrong = {named[0].clip.clip, named[1].clip.clip, named[2].clip.clip}
    swapped = {"drum": "voice", "voice": "drum"}

    def sounding(each: View) -> np.ndarray:
        name = loudest(each)
        return scores_of(swapped[name] if each.clip.clip in wrong else name, random)

    write_part(folder, "generated", "classes", named, sounding)
    metrics, scores, _ = measured(folder)
    agreement = metrics["class_agreement"]
    assert agreement.target == 1
    assert agreement.value == pytest.approx(5 / 8)
    assert {clip for clip, score in scores.items() if score["class_agreement"] == 0} == wrong
    assert agreement.note.startswith("2 classes (drum, voice), chance 0.50")


def test_a_silent_clip_sounds_like_no_class(heard: tuple[Path, list[View]]):
    folder, named = heard
    silent = [replace(each, sound=np.zeros_like(each.sound)) for each in named]
    again = evaluation(folder.parent / "again", named, silent)
    write_classes(again, named, lambda each: scores_of(loudest(each), np.random.default_rng(1)))
    agreement = measured(again)[0]["class_agreement"]
    assert (agreement.value, agreement.target, agreement.clips) == (0, 1, 8)


def test_the_own_scene_does_not_help(heard: tuple[Path, list[View]]):
    """A target with unique audio is not classified by itself, because its own scene is left out."""
    folder, named = heard
    random = np.random.default_rng(2)
    odd = named[0].clip.clip

    def odd_one(each: View) -> np.ndarray:
        return scores_of("voice" if each.clip.clip == odd else loudest(each), random)

    again = evaluation(folder.parent / "again", named, named)
    write_classes(again, named, odd_one)
    agreement = measured(again)[0]["class_agreement"]
    assert agreement.target == agreement.value == pytest.approx(7 / 8)


def test_too_few_clips_of_a_class_give_no_number(tmp_path: Path, views: list[View]):
    named = [made_loudest(each, CLASSES[number % 6]) for number, each in enumerate(views[:6])]
    folder = evaluation(tmp_path / "a", named, named)
    random = np.random.default_rng(0)
    write_classes(folder, named, lambda each: scores_of(loudest(each), random))
    agreement = measured(folder)[0]["class_agreement"]
    assert agreement.value is None
    assert "fewer than two classes" in agreement.note


def test_clips_whose_seen_object_is_not_the_loudest_are_named(tmp_path: Path, views: list[View]):
    named = [made_loudest(each, "drum") for each in views[:3]]
    objects = [item | {"loudness": [2.0] * len(item["loudness"])} if item["class"] == "bell" else item
               for item in named[0].scene.truth["objects"]]  # fmt: skip
    named[0] = replace(named[0], scene=replace(named[0].scene, truth=named[0].scene.truth | {"objects": objects}))
    folder = evaluation(tmp_path / "a", named, named)
    random = np.random.default_rng(0)
    write_classes(folder, named, lambda each: scores_of("drum", random))
    _, _, exclusions = measured(folder)
    told = {left.clip: left.reason for left in exclusions if left.metric == "class_agreement"}
    assert told[named[0].clip.clip] == "another object than that in view is the loudest"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda truth: truth | {"version": 99}, "version 99"),
        (lambda truth: {name: part for name, part in truth.items() if name != "place"}, "place"),
        (lambda truth: truth | {"objects": []}, "0 objects"),
        (lambda truth: truth | {"seconds": 1.0}, "ends at 1 s"),
        (lambda truth: truth | {"place": "moon"}, "no place 'moon'"),
        (lambda truth: truth | {"frame_times_s": [0.0]}, "wanted 1 frames"),
    ],
)
def test_corrupt_truth_is_refused(turned: Path, tmp_path: Path, views: list[View], change, message: str):
    write_truth(tmp_path / "truth", views)
    path = tmp_path / "truth" / "scene_000000.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(MetricError, match=message):
        found(turned, tmp_path / "truth")


def test_truth_that_is_no_json_is_refused(turned: Path, tmp_path: Path, views: list[View]):
    write_truth(tmp_path / "truth", views)
    (tmp_path / "truth" / "scene_000002.json").write_text("{")
    with pytest.raises(MetricError, match="cannot be read as ground truth"):
        found(turned, tmp_path / "truth")


def test_with_the_real_networks(tmp_path: Path, views: list[View], shared_models: Path):
    """Real FastGaze maps and YAMNet scores of a few clips."""
    pytest.importorskip("torch", reason="FastGaze runs in PyTorch: pip install -e '.[torch]'")
    pytest.importorskip("ai_edge_litert", reason="YAMNet needs ai-edge-litert: pip install -e '.[features]'")
    from preprocess.features.fastgaze import open_fastgaze
    from preprocess.features.yamnet import WINDOW, open_yamnet

    gaze, ear = open_fastgaze(shared_models / "fastgaze.vxm"), open_yamnet(shared_models / "yamnet.tflite")
    few = [views[index] for index in (0, 1, 3)]
    folder = evaluation(tmp_path / "a", few, few)
    maps = {each.clip.clip: gaze(each.pictures) for each in few}

    def scores_heard(each: View) -> np.ndarray:
        return ear(np.lib.stride_tricks.sliding_window_view(np.float32(each.sound / 32768), WINDOW)[::WINDOW]).scores

    for side in ("targets", "generated"):
        again = folder / "features" / side / "saliency"
        again.rename(tmp_path / f"even_{side}")
        write_part(folder, side, "saliency", few, lambda each: maps[each.clip.clip])
        write_part(folder, side, "classes", few, scores_heard)
    metrics, scores, _ = measured(folder)
    assert metrics["share_in_view"].value == metrics["share_in_view"].target == 1
    assert value(metrics["direction_error"].value) == value(metrics["direction_error"].target) < 3
    assert metrics["class_agreement"].value is None
    assert all({"av_align", "direction_error"} <= set(score) for score in scores.values())
