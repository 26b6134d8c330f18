"""Summary of the study of a small model as Markdown: choice of guidance, tables, goals, ablations, sampling steps.

(1) text guidance   of each modality, the scale whose clips have the smallest Fréchet distance by that modality's judge
(2) map guidance    the scale with the most right objects in view; of equal ones, that with the smaller Fréchet distance
Both are chosen on scenes that are not evaluated.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from con360av_jax.config.files import structure, unstructure
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.metric_format import DASH, beside, metric_interval, metric_value
from con360av_jax.evaluate.results import METRICS, Metric, Results, read_results
from con360av_jax.evaluate.table1 import BASELINE, CON360AV, PUBLISHED, TABLE, VIEWPOINTS, two_digits
from con360av_jax.runtime.files import write_text

AUDIO, VIDEO, IN_VIEW, DIRECTION = (
    "frechet_audio_judge", "frechet_video_judge", "judge_in_view", "judge_direction_error_all",
)  # fmt: skip
AS_PAPER = {"s_kl": "s_kl", "fad": "fad", AUDIO: "fad", VIDEO: "fvd"}
"""Column of the paper's Table 1 that a metric here stands for; their networks differ, so only ratios are compared."""
SHORT = (VIDEO, AUDIO, IN_VIEW, DIRECTION, "judge_heard", "judge_onsets")
"""Metrics of the ablations and of the numbers of steps."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A number that the study aims at."""

    title: str
    wanted: str
    found: float | None
    """The number; None if it was not measured."""
    met: bool

    @property
    def verdict(self) -> str:
        """Whether the goal is met."""
        return "not measured" if self.found is None else "met" if self.met else "missed"


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Rows of one table1.json: metrics by row and name."""

    baseline: Mapping[str, Metric]
    con360av: Mapping[str, Metric]
    viewpoints: Mapping[str, Metric]

    def ratio(self, name: str) -> float | None:
        """Con360-AV divided by the baseline."""
        one, other = self.con360av.get(name), self.baseline.get(name)
        return one.value / other.value if one and other and one.value is not None and other.value else None


def read_table(folder: Path) -> Tables:
    """Reads FOLDER/table1.json; raises MetricError if it cannot be read."""
    path = folder / f"{TABLE}.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, LookupError) as error:
        raise MetricError(f"{path} cannot be read ({error}): run con360av table1 again") from error
    found = {
        row: {name: structure(metric, Metric) for name, metric in metrics.items()} for row, metrics in rows.items()
    }
    return Tables(baseline=found[BASELINE], con360av=found[CON360AV], viewpoints=found[VIEWPOINTS])


def variants(folder: Path) -> dict[str, Results]:
    """Results of the variants of a study (`con360av evaluate --study`), in the order of its study.json."""
    names = [one["name"] for one in json.loads((folder / "study.json").read_text(encoding="utf-8"))["evaluations"]]
    return {name: read_results(folder / name / METRICS) for name in names}


def best_text(folder: Path) -> str:
    """The scales of equation (1) as an option, from a guidance study over text scales."""
    found = variants(folder).values()
    scales = {}
    for modality, name in (("audio", AUDIO), ("video", VIDEO)):
        best = min(found, key=lambda results, name=name: _value(results, name))
        scales[modality] = _scale(best, "text_guidance", modality)
    return ",".join(f"{modality}={scale:g}" for modality, scale in scales.items())


def best_map(folder: Path) -> str:
    """The scale of equation (2) as an option, from a guidance study over map scales."""
    best = min(variants(folder).values(), key=lambda results: (-_value(results, IN_VIEW), _value(results, VIDEO)))
    return ",".join(f"{modality}={_scale(best, 'map_guidance', modality):g}" for modality in ("audio", "video"))


def _scale(results: Results, name: str, modality: str) -> float:
    sampler = results.made_from["sampler"]
    return float(sampler[name][modality])  # pyright: ignore[reportIndexIssue]


def _value(results: Results, name: str) -> float:
    metric = results.metric(name)
    if metric is None or metric.value is None:
        raise MetricError(f"an evaluation of a guidance study has no {name}: evaluate more scenes")
    return metric.value


def goals(scenes: Tables, small: Tables | None) -> list[Goal]:
    """The study's goals with what was found, from the tables of the protocols scenes and small."""
    in_view, direction = scenes.con360av[IN_VIEW], scenes.con360av[DIRECTION].value
    share = in_view.value / in_view.target if in_view.value is not None and in_view.target else None
    base = scenes.baseline[IN_VIEW]
    chance = base.chance
    above = None if base.value is None or chance is None else base.value - chance
    lowest = base.low if base.low is not None else base.value
    at_chance = above is not None and (above <= 0 or (lowest is not None and chance is not None and lowest <= chance))
    s_kl = small.ratio("s_kl") if small else None
    fvd = scenes.ratio(VIDEO)
    return [
        Goal(
            title="right object in view, share of the targets' own",
            wanted="≥ 0.75",
            found=share,
            met=share is not None and share >= 0.75,
        ),
        Goal(
            title="right object in view of the baseline, above chance",
            wanted="interval reaches chance",
            found=above,
            met=at_chance,
        ),
        Goal(
            title="direction error, median over all clips, degrees",
            wanted="≤ 10",
            found=direction,
            met=direction is not None and direction <= 10,
        ),
        Goal(
            title="S_KL (FastGaze), ratio to the baseline",
            wanted="≤ 0.5",
            found=s_kl,
            met=s_kl is not None and s_kl <= 0.5,
        ),
        Goal(
            title="Fréchet distance (video judge), ratio to the baseline",
            wanted="≤ 0.7",
            found=fvd,
            met=fvd is not None and fvd <= 0.7,
        ),
    ]


def write_summary(
    out: Path,
    tables: Mapping[str, Path],
    more_seeds: Sequence[Path],
    studies: Mapping[str, Path],
    guidance: Mapping[str, str],
    commands: Sequence[str],
) -> Path:
    """Writes OUT/study.md and OUT/study.json and returns the first.

    Args:
        out: folder of the study.
        tables: folder of the table of each protocol; "scenes" is there.
        more_seeds: folders of tables of other training seeds, protocol scenes.
        studies: folders of studies by title.
        guidance: options of guidance by name of the run.
        commands: the commands that were run, in order.

    Raises MetricError if a table or an evaluation cannot be read.
    """
    read = {protocol: read_table(folder) for protocol, folder in tables.items()}
    found = goals(read["scenes"], read.get("small"))
    seeds = [read["scenes"], *(read_table(folder) for folder in more_seeds)]
    shown = {title: variants(folder) for title, folder in studies.items()}
    lines = ["# Study of the small model", ""]
    for protocol, one in read.items():
        lines += [f"## Protocol {protocol}", "", *_table(one), ""]
    lines += ["## Goals", "", *_rows(("goal", "wanted", "found", ""), [
        (one.title, one.wanted, "–" if one.found is None else f"{one.found:.2f}", one.verdict) for one in found
    ]), ""]  # fmt: skip
    if len(seeds) > 1:
        lines += [f"## {len(seeds)} training seeds", "", *_seeds(seeds), ""]
    for title, results in shown.items():
        lines += [f"## {title}", "", *_variants(results), ""]
    lines += ["## Guidance", "", *(f"- {name}: `{options}`" for name, options in guidance.items()), ""]
    lines += ["## Commands", "", "```sh", *commands, "```", ""]
    content = {
        "goals": [{**unstructure(one), "verdict": one.verdict} for one in found],
        "ratios": {name: [one.ratio(name) for one in seeds] for name in seeds[0].con360av},
        "guidance": dict(guidance),
    }
    write_text(out / "study.json", json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(out / "study.md", "\n".join(lines))
    return out / "study.md"


def _table(one: Tables) -> list[str]:
    rows = []
    for name, metric in one.con360av.items():
        base = one.baseline.get(name)
        view = one.viewpoints.get(name)
        column = AS_PAPER.get(name)
        paper = PUBLISHED[CON360AV][column] / PUBLISHED[BASELINE][column] if column else None
        target = DASH if metric.target is None else beside(metric, metric.target)
        shown = [DASH if each is None else _with_interval(each) for each in (base, metric, view)]
        rows.append((_title(metric), target, *shown, two_digits(one.ratio(name)), two_digits(paper)))
    heads = ("", "targets", "baseline", "Con360-AV", "viewpoints against each other", "ratio", "ratio in the paper")
    return _rows(heads, rows)


def _seeds(seeds: Sequence[Tables]) -> list[str]:
    first = seeds[0].con360av
    rows = [
        (
            _title(first[name]),
            *(DASH if (one := each.con360av.get(name)) is None else metric_value(one) for each in seeds),
        )
        for name in SHORT
        if name in first
    ]
    rows += [
        (f"ratio of {first[name].title}", *(two_digits(each.ratio(name)) for each in seeds)) for name in (VIDEO, AUDIO)
    ]
    return _rows(("", *(f"seed {number}" for number in range(len(seeds)))), rows)


def _variants(results: Mapping[str, Results]) -> list[str]:
    first = next(iter(results.values()))
    rows = [
        (
            _title(metric),
            *(DASH if (one := each.metric(name)) is None else _with_interval(one) for each in results.values()),
        )
        for name in SHORT
        if (metric := first.metric(name)) is not None
    ]
    return _rows(("", *results), rows)


def _title(metric: Metric) -> str:
    unit = f", {metric.unit}" if metric.unit else ""
    return f"{metric.title}{unit} {'↓' if metric.lower_is_better else '↑'}"


def _with_interval(metric: Metric) -> str:
    interval = "" if metric.low is None else f" ({metric_interval(metric)})"
    return f"{metric_value(metric)}{interval}"


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [
        f"| {' | '.join(heads)} |",
        f"|---|{'---:|' * (len(heads) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
