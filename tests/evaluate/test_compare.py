"""Differences between evaluations: paired intervals if comparable, otherwise an error with all reasons."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.config.files import unstructure
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.compare import differences, open_evaluations, require_alike, write_differences
from con360av_jax.evaluate.protocols import SMALL
from con360av_jax.evaluate.results import ClipScores, Metric, Results, write_results
from tests.support.evaluation_stand_ins import card

CLIPS = tuple(f"clip_{number}_0_0" for number in range(30))


def evaluation(scores: np.ndarray, fad: float | None = 3.0) -> Results:
    clips = tuple(
        ClipScores(
            clip=name, generated="g.mp4", target="t.mp4", caption="", viewpoint=(0.0, 0.0, 1.0, 1.0),
            scores={"s_kl": float(score)},
        )
        for name, score in zip(CLIPS, scores, strict=True)
    )  # fmt: skip
    value = float(scores.mean())
    return Results(
        protocol=unstructure(SMALL),
        made_from={"dataset": {"path": "d", "manifest_sha256": "1"}, "seed": 0},
        metrics=(
            Metric(name="s_kl", title="S_KL (FastGaze)", unit="nats", lower_is_better=True, value=value),
            Metric(name="fad", title="FAD (YAMNet)", unit="", lower_is_better=True, value=fad),
        ),
        clips=clips,
        cards={"saliency": card("saliency", size=480)},
    )


SPREAD = np.linspace(0.2, 4, len(CLIPS))


def test_pairing_finds_a_difference_that_the_spread_over_clips_would_hide():
    noise = np.random.default_rng(0).normal(0, 0.02, len(CLIPS))
    named = [("A", evaluation(SPREAD)), ("B", evaluation(SPREAD - 0.1 + noise))]
    s_kl, fad = differences(named)
    assert s_kl.value == pytest.approx(-0.1 + noise.mean())
    assert s_kl.low is not None and s_kl.high is not None and s_kl.low < s_kl.value < s_kl.high < 0
    assert (s_kl.better, s_kl.clips, s_kl.first, s_kl.second) == ("B", 30, "A", "B")
    assert (fad.value, fad.low, fad.better) == (0.0, None, "")


@pytest.mark.parametrize(("clips", "better"), [(5, ""), (6, "B")])
def test_a_few_clips_of_one_sign_decide_nothing(clips: int, better: str):
    few = {"one": evaluation(SPREAD), "other": evaluation(SPREAD - 0.1)}
    named = [(name, replace(few[key], clips=few[key].clips[:clips])) for name, key in (("A", "one"), ("B", "other"))]
    s_kl, _ = differences(named)
    assert s_kl.high is not None and s_kl.high < 0
    assert s_kl.better == better


@pytest.mark.parametrize(("recordings", "better"), [(1, ""), (5, ""), (6, "B")])
def test_many_records_of_few_recordings_decide_nothing(recordings: int, better: str):
    def of_few(results: Results) -> Results:
        names = (f"clip_{number % recordings}_{number}_0" for number in range(len(CLIPS)))
        return replace(
            results, clips=tuple(replace(clip, clip=name) for clip, name in zip(results.clips, names, strict=True))
        )

    named = [("A", of_few(evaluation(SPREAD))), ("B", of_few(evaluation(SPREAD - 0.1)))]
    s_kl, _ = differences(named)
    assert s_kl.better == better and (s_kl.low is None) is (recordings == 1)
    assert s_kl.value == pytest.approx(-0.1)
    if recordings > 1:
        assert (s_kl.clips, s_kl.recordings) == (30, recordings)


def test_a_clip_that_only_one_model_scores_leaves_the_difference_undecided():
    """The targets are the same, so the other model's clip is missing by its own fault, perhaps where it is worst."""
    good, flattered = evaluation(SPREAD), evaluation(SPREAD - 0.1)
    worst = replace(flattered.clips[-1], scores={})
    flattered = replace(flattered, clips=(*flattered.clips[:-1], worst))
    s_kl, _ = differences([("A", good), ("B", flattered)])
    assert s_kl.high is not None and s_kl.high < 0
    assert (s_kl.clips, s_kl.left_out, s_kl.better) == (29, 1, "")


def test_an_interval_with_both_signs_decides_nothing():
    noise = np.random.default_rng(0).normal(0, 0.5, len(CLIPS))
    (s_kl, _) = differences([("A", evaluation(SPREAD)), ("B", evaluation(SPREAD + noise - noise.mean()))])
    assert s_kl.better == "" and s_kl.value == pytest.approx(0, abs=1e-12)


def test_each_of_several_is_set_against_the_first():
    named = [(name, evaluation(SPREAD + shift)) for name, shift in (("A", 0), ("B", 1), ("C", -1))]
    assert [(one.second, one.better) for one in differences(named) if one.name == "s_kl"] == [("B", "A"), ("C", "C")]


def test_a_metric_without_a_value_has_no_difference():
    named = [("A", evaluation(SPREAD)), ("B", evaluation(SPREAD, fad=None))]
    assert [one.name for one in differences(named)] == ["s_kl"]


def test_unlike_evaluations_are_refused_with_all_that_differs():
    one = evaluation(SPREAD)
    assert SMALL.sound is not None
    protocol = unstructure(replace(SMALL, sound=replace(SMALL.sound, hop_seconds=0.5)))
    other = replace(
        one,
        protocol=protocol,
        cards={"saliency": card("saliency", size=512), "sound": card("sound")},
        made_from={"dataset": {"path": "e", "manifest_sha256": "2"}},
        clips=one.clips[:-2],
    )
    with pytest.raises(MetricError) as error:
        require_alike([("A", one), ("B", other)])
    assert str(error.value) == (
        "these evaluations cannot be compared. A and B: protocol.sound.hop_seconds: 0.975 -> 0.5. "
        "A and B: features saliency: settings.size: 480 -> 512. A and B: features sound: only in the second. "
        "A and B: dataset.manifest_sha256: 1 -> 2. A and B: clips: 2 only in the first (clip_28_0_0, clip_29_0_0)"
    )
    require_alike([("A", one), ("B", replace(one, command="other", versions={"jax": "2"}))])


def test_folders_are_opened_and_bad_ones_named(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_results(evaluation(SPREAD), tmp_path / name)
    named = open_evaluations([tmp_path / "a", tmp_path / "b" / "metrics.json"])
    assert [name for name, _ in named] == [str(tmp_path / "a"), str(tmp_path / "b" / "metrics.json")]
    with pytest.raises(MetricError, match="give two evaluation folders or more"):
        open_evaluations([tmp_path / "a"])
    with pytest.raises(MetricError, match="the same evaluation twice"):
        open_evaluations([tmp_path / "a", tmp_path / "b" / ".." / "a"])
    with pytest.raises(MetricError, match=r"c cannot be read .*: give a folder that con360av evaluate wrote"):
        open_evaluations([tmp_path / "a", tmp_path / "c"])


def test_what_was_found_is_written(tmp_path: Path):
    named = [("A", evaluation(SPREAD)), ("B", evaluation(SPREAD + 1))]
    write_differences(named, differences(named), tmp_path / "comparison.json", study="none")
    told = json.loads((tmp_path / "comparison.json").read_text())
    assert [one["name"] for one in told["evaluations"]] == ["A", "B"] and told["study"] == "none"
    assert told["differences"][0]["better"] == "A" and len(told["evaluations"][0]["metrics"]) == 2
