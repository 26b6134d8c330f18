"""Table 1 of the Con360-AV paper: baseline, Con360-AV, and its viewpoints against each other, beside what is published.

OUT/baseline     evaluation of the audio-video baseline, which gets no maps
OUT/con360av     evaluation of Con360-AV: the same records and noise
OUT/viewpoints   study of Con360-AV: the same scenes, captions and noise from each viewpoint (study.py)
OUT/comparison   .html and .json: the two evaluations, clip by clip
OUT/table1       .html and .json
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from con360av_jax.base.pretrained import read_report
from con360av_jax.config.files import changes, leaves, unstructure
from con360av_jax.config.settings import Config
from con360av_jax.errors import ConfigError
from con360av_jax.evaluate.compare import differences, write_differences
from con360av_jax.evaluate.comparison_page import write_comparison
from con360av_jax.evaluate.feature_metrics import measures, network
from con360av_jax.evaluate.judge_metrics import NAMES
from con360av_jax.evaluate.metric_format import DASH
from con360av_jax.evaluate.protocols import PAPER, Protocol
from con360av_jax.evaluate.results import Metric, Results
from con360av_jax.evaluate.run import Evaluation, Loader, generate_all, measure
from con360av_jax.evaluate.settings import ABLATION, Making, Weights
from con360av_jax.evaluate.study import measure_study, share_targets
from con360av_jax.runtime.files import write_text
from con360av_jax.train.run_folder import open_run

BASELINE, CON360AV, VIEWPOINTS = "baseline", "con360av", "viewpoints"
TITLES = {BASELINE: "Baseline", CON360AV: "Con360-AV", VIEWPOINTS: "Viewpoint comparison"}
PUBLISHED = {
    BASELINE: {"s_kl": 1.9536, "fad": 8.23, "fvd": 1959.0},
    CON360AV: {"s_kl": 0.6458, "fad": 3.21, "fvd": 1327.0},
    VIEWPOINTS: {"fad": 4.12, "fvd": 1594.0},
}
"""Table 1 of arXiv 2510.06060, by row and column."""
TABLE = "table1"


class Ratio(NamedTuple):
    """Con360-AV divided by the baseline, here and in the paper; None without both values."""

    ours: float | None
    paper: float | None


@dataclass(frozen=True, kw_only=True)
class Table1:
    """The table, and what a reader must know about it."""

    protocol: str
    columns: tuple[str, ...]
    """Names of the metrics: "s_kl", "fad", "fvd_16", ..."""
    rows: Mapping[str, Mapping[str, Metric]]
    """Metrics by row and column, with the published value as `paper`; rows without a metric have no entry."""
    ratios: Mapping[str, Ratio]
    """Ratio of Con360-AV to the baseline by column."""
    warnings: tuple[str, ...]
    """Reasons why the rows may not be what they are called."""
    without_paper: str
    """Reason why published values are left out; "" if they are shown."""
    training: Sequence[tuple[str, str, str]]
    """Settings of training that differ: name, value of the baseline, value of Con360-AV."""
    results: Mapping[str, Results]
    """Results of the two evaluations by row."""
    command: str


def published(row: str, protocol: Protocol) -> dict[str, float]:
    """Published values of a row by name of the metric; none for other protocols than the paper's.

    The paper does not say how many frames its FVD has: its value stands beside each of ours.
    """
    if protocol.name != PAPER.name:
        return {}
    columns = {name: name.partition("_")[0] if name.startswith("fvd") else name for name in columns_of(protocol)}
    return {name: PUBLISHED[row][column] for name, column in columns.items() if column in PUBLISHED[row]}


def columns_of(protocol: Protocol) -> tuple[str, ...]:
    """Names of the metrics in the table: S_KL, FAD, and FVD for each number of frames, or those of the judges."""
    distances = (*(("s_kl",) if protocol.saliency else ()), *(measure_.name for measure_ in measures(protocol)))
    return (*distances, *(NAMES if protocol.judge is not None else ()))


def trained_without_maps(config: Config) -> bool:
    """Whether training left out both maps of every sample."""
    train = config.train
    return train.map_dropout == 1 or train.saliency_dropout == train.basd_dropout == 1


def check_runs(baseline: Weights, con360av: Weights) -> None:
    """Raises ConfigError unless the two can be the rows of the table: a run with maps, and another of the same base."""
    if training_of(con360av) is None:
        raise ConfigError(
            f"--con360av {con360av.path}: a base has not learnt from maps; give a training run or its export"
        )
    if trained_without_maps(con360av.config):
        raise ConfigError(
            f"--con360av {con360av.folder}: trained without maps, it is a baseline; give a run that was "
            "trained with maps"
        )
    if baseline.sha256 == con360av.sha256:
        raise ConfigError(f"--baseline and --con360av are the same weights: {baseline.path}; give two runs")
    hashes = [_base_sha256(weights) for weights in (baseline, con360av)]
    if hashes[0] != hashes[1]:
        raise ConfigError(
            f"--baseline {baseline.folder} and --con360av {con360av.folder} have other bases ({hashes[0][:12]}, "
            f"{hashes[1][:12]}), whose difference would be part of every number; train both on one base"
        )


class Training(NamedTuple):
    """Origin of weights that learnt on a base."""

    base_sha256: str
    dataset_sha256: str


def training_of(weights: Weights) -> Training | None:
    """The training of a run, or of the run that an exported model comes from; None for a base."""
    if weights.kind != "pretrained":
        run = open_run(weights.folder)
        return Training(run.base_sha256, run.dataset.sha256)
    stages = [stage for stage in read_report(weights.folder).get("trained", []) if stage["part"] == "joint"]
    return Training(stages[-1]["base_sha256"], stages[-1]["data"]["sha256"]) if stages else None


def _base_sha256(weights: Weights) -> str:
    training = training_of(weights)
    return weights.sha256 if training is None else training.base_sha256


def doubts(baseline: Making, con360av: Making) -> list[str]:
    """Reasons, known before anything is generated, why the rows may not be what they are called."""
    found: list[str] = []
    weights = baseline.weights
    if training_of(weights) is not None and not trained_without_maps(weights.config):
        found.append(
            f"{weights.folder} was trained with maps (train.map_dropout {weights.config.train.map_dropout:g}, not 1): "
            "it is not the audio-video baseline; here it is sampled without maps"
        )
    if told := changes(unstructure(baseline.sampler), unstructure(con360av.sampler)):
        found.append(f"the two are sampled differently: {', '.join(f'sampler.{line}' for line in told.values())}")
    return found


def without_maps(making: Making) -> Making:
    """The baseline's settings: no maps, so that what a base may have learnt from maps has no part in it."""
    return replace(making, conditions=ABLATION["without_control"])


def scene_count(count: int | None, viewpoints: int, scenes: int) -> int:
    """Number of scenes of the viewpoint comparison: all, or as many as have about `count` clips."""
    return scenes if count is None else min(scenes, max(1, count // viewpoints))


def make_table(
    pair: Mapping[str, Evaluation], views: Mapping[str, Evaluation], folder: Path, load_model: Loader, command: str
) -> Table1 | None:
    """Evaluates what is not yet evaluated and writes all files but the page; None in a process that only generates.

    Args:
        pair: the evaluations of baseline and Con360-AV by row, both of the same records.
        views: one evaluation of Con360-AV for each viewpoint, by name.
        folder: OUT.
        load_model: loads the models.
        command: the command line, to be recorded.

    Raises as `generate_all`, `measure` and `measure_study` do.
    """
    one, other = pair[BASELINE], pair[CON360AV]
    if not generate_all([one, other, *views.values()], load_model):
        return None
    results = {BASELINE: measure(one)[0]}
    share_targets(one.folder, other.folder)
    results[CON360AV] = measure(other)[0]
    named = [(row, results[row]) for row in pair]
    apart = differences(named, one.making.seed, one.draws)
    write_differences(named, apart, folder / "comparison.json")
    write_comparison(named, folder / "comparison.html", [each.folder for each in pair.values()], apart)
    for view in views.values():
        if {entry.key for entry in view.entries} <= {entry.key for entry in one.entries}:
            share_targets(one.folder, view.folder)
    study = measure_study(VIEWPOINTS, views, folder / VIEWPOINTS)
    table = _table(one.making, other.making, one.protocol, results, study.between_viewpoints, command)
    write_text(folder / f"{TABLE}.json", _json(table))
    return table


def _table(
    baseline: Making,
    con360av: Making,
    protocol: Protocol,
    results: Mapping[str, Results],
    between_viewpoints: Sequence[Metric],
    command: str,
) -> Table1:
    columns = columns_of(protocol)
    rows = {
        row: {name: metric for name in columns if (metric := found.metric(name)) is not None}
        for row, found in results.items()
    }
    paper = published(VIEWPOINTS, protocol)
    rows[VIEWPOINTS] = {metric.name: replace(metric, paper=paper.get(metric.name)) for metric in between_viewpoints}
    warnings = doubts(baseline, con360av)
    warnings += [f"{TITLES[row]}: {found.warning}" for row, found in results.items() if found.warning]
    return Table1(
        protocol=protocol.name,
        columns=columns,
        rows=rows,
        ratios={name: _ratio(rows[CON360AV][name], rows[BASELINE][name]) for name in columns},
        warnings=tuple(warnings),
        without_paper=_without_paper(protocol),
        training=_training_differences(baseline.weights, con360av.weights),
        results=results,
        command=command,
    )


def as_published(value: float | None) -> str:
    """A value of the paper with the digits that it has there, or a dash."""
    return DASH if value is None else f"{value:g}"


def two_digits(value: float | None) -> str:
    """A ratio with two digits behind the point, or a dash."""
    return DASH if value is None else f"{value:.2f}"


def notes_of(table: Table1) -> list[str]:
    """Notes of the table's metrics, each with the title of its row and column."""
    return [
        f"{TITLES[row]}, {metric.title}: {metric.note}"
        for row, metrics in table.rows.items()
        for metric in metrics.values()
        if metric.note
    ]


def _ratio(one: Metric, other: Metric) -> Ratio:
    """The ratio of two metrics and of their published values."""
    ours, paper = (
        top / bottom if top is not None and bottom else None
        for top, bottom in ((one.value, other.value), (one.paper, other.paper))
    )
    return Ratio(ours, paper)


def _without_paper(protocol: Protocol) -> str:
    if protocol.name == PAPER.name:
        return ""
    networks = (
        [network(part.extractor) for part in (of.saliency, of.sound, of.video) if part is not None]
        for of in (protocol, PAPER)
    )
    if protocol.judge is not None:
        networks = (["judges of procedural scenes"], list(networks)[1])
    mine, theirs = (" and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) for names in networks)
    return (
        f"the paper's numbers are left out: protocol {protocol.name} measures with {mine}, the paper with {theirs}, "
        "and numbers of different networks are not comparable"
    )


def _training_differences(baseline: Weights, con360av: Weights) -> list[tuple[str, str, str]]:
    """Settings of training that differ, with the step and the hash of the dataset."""
    told = []
    for weights in (baseline, con360av):
        training = training_of(weights)
        dataset = "" if training is None else training.dataset_sha256[:12]
        settings = {"weights": weights.kind, "trained steps": weights.step, "dataset sha256": dataset}
        told.append(settings | leaves(asdict(weights.config.train)))
    names = dict.fromkeys(name for one in told for name in one)
    rows = [(name, *(str(one.get(name, "")) for one in told)) for name in names]
    return [(name, first, second) for name, first, second in rows if first != second]


def _json(table: Table1) -> str:
    content = {
        "protocol": table.protocol,
        "rows": {
            row: {name: unstructure(metric) for name, metric in metrics.items()} for row, metrics in table.rows.items()
        },
        "ratios": {name: ratio._asdict() for name, ratio in table.ratios.items()},
        "warnings": table.warnings,
        "without_paper": table.without_paper,
        "training": table.training,
        "made_from": {row: results.made_from for row, results in table.results.items()},
        "command": table.command,
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
