"""The comparison page shows all differences, and a best evaluation only if intervals do not overlap."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from con360av_jax.evaluate.comparison_page import metric_rows, short_names, unlike, write_comparison
from tests.support.evaluation_pages import CARD, NOTHING, S_KL, Read, difference, results, write_videos


def test_a_comparison_shows_what_differs_and_the_videos_of_all_evaluations(tmp_path: Path):
    first = results(3)
    second = replace(
        first,
        made_from={**first.made_from, "seed": 4, "sampler": {"steps": 9}},
        metrics=(replace(S_KL, value=0.2, low=0.1, high=0.3), NOTHING),
        clips=tuple(replace(one, scores={"s_kl": one.scores["s_kl"] / 2}) for one in first.clips),
    )
    for name, found in (("a", first), ("b", second)):
        write_videos(tmp_path / name, found)
    apart = difference(replace(S_KL, value=-0.3, low=-0.4, high=-0.2), better="b")
    out = tmp_path / "deep" / "compared.html"
    named = [("/runs/a/small", first), ("/runs/b/small", second)]
    page = Read(write_comparison(named, out, [tmp_path / "a", tmp_path / "b"], [apart]))
    told = " ".join(page.text.split())
    assert "0.20 best" in told and "S_KL (FastGaze): b minus a" in told and "below 0" in told
    assert "sampler.steps – 9" in told and "seed 3 4" in told and "config_hash 0123" not in told
    assert page.count("video") == 3 * 3, "the target and both variants"
    assert [file for file in page.files() if not (out.parent / unquote(file)).is_file()] == []
    order = [told.index(f"scene_{number} Play all") for number in (2, 1, 0)]
    assert order == sorted(order), "the greatest difference first"
    assert "cannot be compared" not in told


def test_an_evaluation_is_best_only_if_its_interval_overlaps_no_other():
    def best(*ends: tuple[float, float], lower: bool = True) -> int | None:
        named = [
            (str(number), results(0, metrics=(replace(S_KL, low=low, high=high, lower_is_better=lower),)))
            for number, (low, high) in enumerate(ends)
        ]
        return metric_rows(named)[0].best

    assert best((0.4, 0.6), (0.1, 0.3)) == 1
    assert best((0.4, 0.6), (0.1, 0.3), lower=False) == 0
    assert best((0.4, 0.6), (0.1, 0.4)) is None
    assert best((0.4, 0.6), (0.1, 0.3), (0.2, 0.5)) is None
    without = (("a", results(0)), ("b", results(0, metrics=(replace(S_KL, low=None, high=None),))))
    assert metric_rows(without)[0].best is None
    few = [
        (name, results(0, metrics=(replace(S_KL, low=low, high=low + 0.1, clips=30, recordings=5),)))
        for name, low in (("a", 0), ("b", 1))
    ]
    assert metric_rows(few)[0].best is None, "too few recordings to decide"


def test_unlike_evaluations_are_told_apart_on_the_page(tmp_path: Path):
    first, second = results(1), results(1, cards={"saliency": replace(CARD, settings={"size": 256})})
    (said,) = unlike([("a", first), ("b", second)])
    assert said == "a and b: features saliency: settings.size: 480 -> 256"
    page = Read(write_comparison([("a", first), ("b", second)], tmp_path / "c.html", [tmp_path] * 2))
    assert "cannot be compared" in page.text and said in page.text


def test_names_of_folders_are_shown_by_what_differs():
    assert short_names(["/r/a/evaluation/small", "/r/b/evaluation/small"]) == ["a", "b"]
    assert short_names(["/r/a", "/r/a/b"]) == ["/r/a", "/r/a/b"]
    assert short_names(["text_1", "text_2"]) == ["text_1", "text_2"]
