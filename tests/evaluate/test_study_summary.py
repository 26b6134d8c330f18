"""The study's summary: guidance is chosen by the written rule, goals are met or missed by their numbers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from con360av_jax.config.files import unstructure
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.compare import write_differences
from con360av_jax.evaluate.results import Metric, Results, write_results
from con360av_jax.evaluate.study_summary import (
    AUDIO,
    DIRECTION,
    IN_VIEW,
    VIDEO,
    best_map,
    best_text,
    goals,
    read_table,
    write_summary,
)
from tests.support.evaluation_pages import results


def metric(name: str, value: float | None, **changed) -> Metric:
    lower = name not in (IN_VIEW, "judge_heard", "judge_onsets")
    return replace(Metric(name=name, title=f"title of {name}", unit="", lower_is_better=lower, value=value), **changed)


def variant(folder: Path, name: str, scales: tuple[float, float], values: dict[str, float]) -> tuple[str, Results]:
    """An evaluation with guidance scales of audio and video."""
    pair = {"audio": scales[0], "video": scales[1]}
    made_from = {"sampler": {"text_guidance": pair, "map_guidance": pair}}
    metrics = tuple(metric(one, value) for one, value in values.items())
    found = results(2, made_from=made_from, metrics=metrics)
    write_results(found, folder / name)
    return name, found


def a_study(folder: Path, variants: dict[str, tuple[tuple[float, float], dict[str, float]]]) -> Path:
    named = [variant(folder, name, *given) for name, given in variants.items()]
    write_differences(named, [], folder / "study.json")
    return folder


def a_table(folder: Path, baseline: list[Metric], con360av: list[Metric]) -> Path:
    rows = {"baseline": baseline, "con360av": con360av, "viewpoints": [metric(VIDEO, 3.0)]}
    told = {row: {one.name: unstructure(one) for one in metrics} for row, metrics in rows.items()}
    folder.mkdir(parents=True)
    (folder / "table1.json").write_text(json.dumps({"rows": told}))
    return folder


BASELINE = [
    metric(VIDEO, 10.0), metric(AUDIO, 8.0), metric(IN_VIEW, 0.2, low=0.1, high=0.3, chance=0.15),
    metric(DIRECTION, 90.0),
]  # fmt: skip
CONTROL = [
    metric(VIDEO, 5.0), metric(AUDIO, 6.0), metric(IN_VIEW, 0.72, low=0.6, high=0.8, target=0.9, chance=0.18),
    metric(DIRECTION, 12.0),
]  # fmt: skip


def test_text_guidance_is_chosen_for_each_modality_by_its_own_judge(tmp_path: Path):
    folder = a_study(
        tmp_path,
        {
            "text_1": ((1, 1), {AUDIO: 3.0, VIDEO: 9.0}),
            "text_2": ((2, 2), {AUDIO: 1.0, VIDEO: 8.0}),
            "text_4": ((4, 4), {AUDIO: 2.0, VIDEO: 7.0}),
        },
    )
    assert best_text(folder) == "audio=2,video=4"


def test_map_guidance_is_the_one_with_most_right_objects_in_view(tmp_path: Path):
    folder = a_study(
        tmp_path,
        {
            "map_1": ((1, 1), {IN_VIEW: 0.5, VIDEO: 1.0}),
            "map_2": ((2, 2), {IN_VIEW: 0.8, VIDEO: 5.0}),
            "map_4": ((4, 4), {IN_VIEW: 0.8, VIDEO: 4.0}),
        },
    )
    assert best_map(folder) == "audio=4,video=4"


def test_goals_are_met_or_missed_by_their_numbers(tmp_path: Path):
    table = read_table(a_table(tmp_path / "scenes", BASELINE, CONTROL))
    found = goals(table, None)
    assert [one.verdict for one in found] == ["met", "met", "missed", "not measured", "met"]
    assert [one.found for one in found] == [pytest.approx(0.8), pytest.approx(0.05), 12.0, None, 0.5]
    seeing = [replace(one, value=0.6, low=0.5) if one.name == IN_VIEW else one for one in BASELINE]
    worse = [replace(one, value=9.0) if one.name == VIDEO else one for one in CONTROL]
    worse = [replace(one, value=0.6) if one.name == IN_VIEW else one for one in worse]
    small = read_table(a_table(tmp_path / "small", [metric("s_kl", 2.0)], [metric("s_kl", 0.8)]))
    found = goals(read_table(a_table(tmp_path / "worse", seeing, worse)), small)
    assert [one.verdict for one in found] == ["missed", "missed", "missed", "met", "missed"]


def test_the_summary_has_tables_ratios_beside_the_papers_goals_and_commands(tmp_path: Path):
    scenes = a_table(tmp_path / "scenes_0", BASELINE, CONTROL)
    other = a_table(tmp_path / "scenes_1", BASELINE, [replace(CONTROL[0], value=6.0), *CONTROL[1:]])
    values = {VIDEO: 5.0, AUDIO: 4.0, IN_VIEW: 0.5, DIRECTION: 20.0}
    ablation = a_study(tmp_path / "ablation", {"full": ((1, 1), values), "without_basd": ((1, 1), values)})
    commands = ["con360av table1 --out x", "con360av evaluate"]
    page = write_summary(
        tmp_path, {"scenes": scenes}, [other], {"Ablations": ablation}, {"Con360-AV": "--map-guidance 2"}, commands
    )
    text = page.read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| title of {VIDEO} ↓ | –"))
    assert row == f"| title of {VIDEO} ↓ | – | 10.00 | 5.000 | 3.000 | 0.50 | 0.68 |", "FVD's ratio in the paper"
    assert f"| title of {IN_VIEW} ↑ | 0.90 | 0.20 (0.10 to 0.30) | 0.72 (0.60 to 0.80) |" in text
    assert "| direction error, median over all clips, degrees | ≤ 10 | 12.00 | missed |" in text
    assert f"| ratio of title of {VIDEO} | 0.50 | 0.60 |" in text and "## 2 training seeds" in text
    assert "| full | without_basd |" in text and "`--map-guidance 2`" in text
    assert all(command in text for command in commands)
    content = json.loads((tmp_path / "study.json").read_text())
    assert content["ratios"][VIDEO] == [0.5, 0.6] and content["goals"][2]["verdict"] == "missed"


def test_a_table_that_is_missing_is_told(tmp_path: Path):
    with pytest.raises(MetricError, match="table1.json cannot be read"):
        read_table(tmp_path)
