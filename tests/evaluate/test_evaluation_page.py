"""The page of an evaluation: complete, escaped, with links that resolve, and small with thousands of clips."""

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from con360av_jax.errors import MetricError
from con360av_jax.evaluate.comparison_page import write_comparison
from con360av_jax.evaluate.evaluation_page import LISTED, write_page
from con360av_jax.evaluate.examples import BEST, WORST, ranked
from con360av_jax.evaluate.metric_format import metric_interval, metric_value, number
from con360av_jax.evaluate.protocols import SMALL
from con360av_jax.evaluate.results import Exclusion, Results, write_results
from tests.support.evaluation_pages import (
    CARD,
    EVIL,
    NOTHING,
    S_KL,
    Read,
    clip,
    difference,
    results,
    write_maps,
    write_videos,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete evaluation of three clips, one with a name that needs quoting."""
    folder = tmp_path_factory.mktemp("evaluation")
    found = results(3)
    odd = replace(found.clips[1], clip="a #1%", generated="generated/a #1%.mp4", target="targets/a #1%.mp4")
    found = replace(found, clips=(found.clips[0], odd, found.clips[2]))
    write_videos(folder, found)
    write_maps(folder, found)
    write_results(found, folder)
    return folder


def page_of(folder: Path, found: Results) -> Read:
    write_results(found, folder)
    return Read(write_page(folder))


def test_videos_play_beside_each_other_and_every_link_resolves(whole: Path):
    page = Read(write_page(whole))
    assert page.count("video") == 6
    videos = [given for tag, given in page.elements if tag == "video"]
    assert all("controls" in given and "muted" not in given for given in videos)
    files = page.files()
    assert len(files) == 6 + 6 + 6, "videos, their captions, and the table"
    assert [file for file in files if not (whole / unquote(file)).is_file()] == []
    assert page.count("img") == 3 * 2 * 2, "saliency and mel of both sides of each clip"


def test_nothing_comes_from_the_network_and_sorting_works_without_it(whole: Path):
    page = Read(write_page(whole))
    assert [file for file in page.files() if re.match(r"[a-z]+:|//|/", file)] == []
    text = (whole / "metrics.html").read_text()
    assert "<link" not in text and "url(" not in text.replace("url(#", "") and "@import" not in text
    assert "import(" not in text and "fetch(" not in text
    heads = [given for tag, given in page.elements if tag == "th" and "aria-sort" in given]
    assert [given["aria-sort"] for given in heads].count("descending") == 1, "written the worst first"
    assert 'head.setAttribute("aria-sort"' in text
    assert text.count("<script>") == text.count("</script>") == 1


def test_numbers_settings_cards_and_choices_are_all_there(whole: Path):
    text = Read(write_page(whole)).text
    for said in ("0.50", "0.40 to 0.60", "1 row only", "FAD (YAMNet)", "abc1234", "0123456789ab", "--run /r/first"):
        assert said in text, said
    assert "Evaluation of first" in " ".join(text.split())
    assert all(sentence in text for sentence in SMALL.left_open)
    assert '"weights_sha256": "' + "ab" * 32 in text
    assert "Paper: empty, no value is taken from Table 1 of" in " ".join(text.split())


def test_a_number_of_the_paper_stands_where_it_may(tmp_path: Path):
    text = page_of(tmp_path, results(0, metrics=(replace(S_KL, paper=0.713, target=0.1),))).text
    assert "0.71" in text and "Paper: values of Table 1 of" in " ".join(text.split())


def test_text_from_files_is_only_text(tmp_path: Path):
    evil = replace(S_KL, title=EVIL, note=EVIL, unit=EVIL)
    found = results(
        1,
        clips=(clip(0, clip=EVIL, caption=EVIL, generated=f"generated/{EVIL}.mp4", target="javascript:alert(1)"),),
        metrics=(evil,),
        exclusions=(Exclusion(clip=EVIL, metric=EVIL, reason=EVIL),),
        made_from={"run": EVIL, EVIL: {EVIL: EVIL}},
        versions={EVIL: EVIL},
        command=EVIL,
        cards={EVIL: replace(CARD, model=EVIL)},
    )
    (tmp_path / "javascript:alert(1)").write_bytes(b"")
    page_of(tmp_path, found)
    named = [(EVIL, found), ("$x$", found)]
    write_comparison(named, tmp_path / "c.html", [tmp_path] * 2, [difference(evil)])
    for name in ("metrics.html", "c.html"):
        text, page = (tmp_path / name).read_text(), Read(tmp_path / name)
        assert "<script>alert" not in text and "javascript:" not in "".join(page.addresses())
        assert text.count("<script>") == 1
        assert EVIL in page.text


def test_missing_and_corrupt_videos_are_named_and_never_linked(whole: Path, tmp_path: Path):
    found = results(2)
    write_videos(tmp_path, found)
    (tmp_path / found.clips[0].generated).unlink()
    (tmp_path / found.clips[1].target).write_bytes(b"no video")
    page = page_of(tmp_path, found)
    assert f"{found.clips[0].generated} is missing" in page.text
    assert "scene_1.mp4" in page.text and "corrupt" in page.text
    assert "No saliency is shown" in page.text and page.count("img") == 2
    assert [file for file in page.files() if not (tmp_path / file).is_file()] == []
    assert page.count("video") == 3


@pytest.mark.parametrize("count", [0, 1])
def test_an_evaluation_of_no_clip_or_one_has_a_page(tmp_path: Path, count: int):
    found = results(count, metrics=(NOTHING,), cards={}, exclusions=(), versions={}, command="", made_from={})
    page = page_of(tmp_path, found)
    assert ("There are no clips." in page.text) == (count == 0)
    assert "every metric uses every clip" in page.text
    compared = Read(write_comparison([("one", found), ("two", found)], tmp_path / "compared.html", [tmp_path] * 2))
    assert "None:" in compared.text
    assert write_comparison([], tmp_path / "none.html", []).is_file()


def test_clips_without_any_score_are_shown_in_their_order(tmp_path: Path):
    found = results(2, clips=(clip(1, scores={}), clip(0, scores={})))
    assert ranked(found).metric is None
    assert "The first 2 of 2 clips" in page_of(tmp_path, found).text


def test_worst_come_first_and_no_clip_is_shown_twice():
    found = results(40)
    ranking = ranked(found)
    worst, best = ranking.chosen()
    assert [one.scores["s_kl"] for one in worst] == list(range(39, 39 - WORST, -1))
    assert [one.scores["s_kl"] for one in best] == list(range(BEST))
    higher = replace(S_KL, lower_is_better=False)
    assert ranked(replace(found, metrics=(higher,))).clips[0].scores["s_kl"] == 0
    few = ranked(results(WORST + 2)).chosen()
    assert sum(map(len, few)) == WORST + 2 == len({one.clip for part in few for one in part})
    silent = ranked(replace(found, clips=(clip(99, scores={}), *found.clips)))
    assert silent.clips[-1].clip == "scene_99"


def test_exclusions_are_counted_by_reason_and_not_all_listed(tmp_path: Path):
    frames = tuple(Exclusion(clip="scene_0", metric="s_kl", reason="black", frame=n) for n in range(LISTED + 5))
    silent = Exclusion(clip="scene_1", metric="fad", reason="silent")
    page = page_of(tmp_path, results(2, exclusions=(silent, *frames)))
    assert f"The first {LISTED} of {LISTED + 6}" in page.text
    table = page.text[page.text.index("Exclusions") :]
    assert table.index("black") < table.index("silent")
    assert re.search(rf"black\s+1\s+{LISTED + 5}\s", table)


def test_two_thousand_clips_are_a_page_of_moderate_size(tmp_path: Path):
    long = " ".join(["a dog barks in front of a house while it rains"] * 20)
    scores = {"s_kl": 0.123456, "av_align": 0.5, "direction_error": 12.3, "sound_distance": 0.4}
    clips = tuple(clip(number, caption=long, scores=scores) for number in range(2000))
    few = replace(results(WORST + BEST), clips=clips[: WORST + BEST])
    write_videos(tmp_path, few, side=256, seconds=4.0)
    write_maps(tmp_path, few)
    page = page_of(tmp_path, results(0, clips=clips))
    assert page.count("tr") > 2000
    assert (tmp_path / "metrics.html").stat().st_size < 3_000_000
    both = [("one", results(0, clips=clips)), ("two", results(0, clips=clips))]
    assert write_comparison(both, tmp_path / "compared.html", [tmp_path] * 2).stat().st_size < 3_000_000


def test_numbers_have_the_digits_that_mean_something():
    assert number(None) == "–" and number(0.0) == "0.000" and number(-2e-13) == "0.000"
    assert number(151.2565) == "151.3" and number(12345.6) == "12,346" and number(0.00012345) == "0.000123"
    assert number(-0.5) == "−0.5000"
    assert metric_value(replace(S_KL, value=0.512, low=0.4, high=0.6)) == "0.51"
    assert metric_value(replace(S_KL, value=151.2565, low=130, high=170)) == "151"
    assert metric_interval(replace(S_KL, low=None)) == "–"


def test_without_results_no_page_is_left(tmp_path: Path):
    with pytest.raises(MetricError, match="cannot be read"):
        write_page(tmp_path)
    assert list(tmp_path.iterdir()) == []
