"""The HTML page that compares several evaluations: metrics, intervals, settings that differ, and scores by clip."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from con360av_jax.config.files import leaves
from con360av_jax.evaluate.compare import Difference, NamedResults, measurement_differences
from con360av_jax.evaluate.examples import videos_of
from con360av_jax.evaluate.metric_format import DASH, FILTERS, half_width, number
from con360av_jax.evaluate.metric_plots import intervals, scatter
from con360av_jax.evaluate.metrics.bootstrap import FEWEST_TO_DECIDE
from con360av_jax.evaluate.results import Metric
from con360av_jax.pages.environment import page_environment
from con360av_jax.runtime.files import write_text

MOST_APART = 12
"""Clips shown with their videos: those whose scores differ most between the evaluations."""
LISTED = 200
"""Clips in the table of those whose scores differ most."""


class MetricRow(NamedTuple):
    """One metric in each evaluation; None where an evaluation has not computed it."""

    metric: Metric
    found: tuple[Metric | None, ...]
    best: int | None
    """Index of the evaluation whose interval is better than all others without overlap, or None."""
    spread: float
    """Half the width of the narrowest interval, which sets the precision of all values in the row."""


def write_comparison(
    named: Sequence[NamedResults], out: Path, folders: Sequence[Path], differences: Sequence[Difference] = ()
) -> Path:
    """Writes a page that compares two evaluations or more, in one step.

    Args:
        named: name and results of each evaluation.
        out: the page.
        folders: folder of each evaluation, in the same order.
        differences: paired differences to show; those without an interval are omitted.
    """
    full = [name for name, _ in named]
    short = short_names(full)
    evaluations = [(name, results) for name, (_, results) in zip(short, named, strict=True)]
    shared = shared_clips(evaluations)
    html = (
        page_environment("con360av_jax.evaluate", **FILTERS)
        .get_template("comparison_page.html")
        .render(
            names=list(zip(short, full, strict=True)),
            results=named,
            unlike=unlike(evaluations),
            metrics=metric_rows(evaluations),
            differences=[found for found in differences if found.low is not None],
            settings=differing_settings(evaluations),
            plots=interval_plots(evaluations),
            scatters=scatters(evaluations, shared),
            shared=shared,
            apart=most_apart(evaluations, shared, folders, out),
            videos=MOST_APART,
        )
    )
    write_text(out, html)
    return out


def short_names(names: Sequence[str]) -> list[str]:
    """Names for headings: paths without the leading and trailing folders that all have in common."""
    if len(set(names)) < 2 or not all("/" in name for name in names):
        return list(names)
    parts = [name.split("/") for name in names]
    first = len(os.path.commonprefix(parts))
    last = min(len(os.path.commonprefix([part[::-1] for part in parts])), min(map(len, parts)) - first)
    short = ["/".join(part[first : len(part) - last]) for part in parts]
    return short if all(short) and len(set(short)) == len(names) else list(names)


def shared_clips(evaluations: Sequence[NamedResults]) -> tuple[str, ...]:
    """Names of the clips that all evaluations have, in the order of the first."""
    if not evaluations:
        return ()
    common = set.intersection(*({clip.clip for clip in results.clips} for _, results in evaluations))
    return tuple(clip.clip for clip in evaluations[0][1].clips if clip.clip in common)


def unlike(evaluations: Sequence[NamedResults]) -> list[str]:
    """Differences in protocol or feature networks from the first evaluation, one sentence per evaluation."""
    return [
        f"{evaluations[0][0]} and {name}: {'; '.join(found)}"
        for name, results in evaluations[1:]
        if (found := measurement_differences(evaluations[0][1], results))
    ]


def metric_rows(evaluations: Sequence[NamedResults]) -> list[MetricRow]:
    """One row per metric that any evaluation has, in order of first appearance."""
    order = {metric.name: metric for _, results in reversed(evaluations) for metric in results.metrics}
    names = dict.fromkeys(metric.name for _, results in evaluations for metric in results.metrics)
    rows = []
    for name in names:
        found = tuple(results.metric(name) for _, results in evaluations)
        spreads = [width for metric in found if metric and (width := half_width(metric))]
        rows.append(MetricRow(metric=order[name], found=found, best=_best(found), spread=min(spreads, default=0.0)))
    return rows


def _best(found: Sequence[Metric | None]) -> int | None:
    """Index of the metric whose interval is better than all others without overlap.

    None if one lacks an interval or has another number of clips.
    """
    ends = [
        (metric.low, metric.high)
        for metric in found
        if metric and metric.value is not None and metric.low is not None and metric.high is not None
        if metric.recordings >= FEWEST_TO_DECIDE
    ]
    # Other numbers of clips: a model left some out by its own fault.
    if len(ends) < len(found) or len(ends) < 2 or len({metric.clips for metric in found if metric}) > 1:
        return None
    lower_is_better = all(metric.lower_is_better for metric in found if metric)
    best = min(range(len(ends)), key=lambda index: ends[index][1] if lower_is_better else -ends[index][0])
    others = [end for index, end in enumerate(ends) if index != best]
    apart = all(ends[best][1] < low if lower_is_better else ends[best][0] > high for low, high in others)
    return best if apart else None


def differing_settings(evaluations: Sequence[NamedResults]) -> tuple[list[tuple[str, tuple[str, ...]]], int]:
    """Settings that differ, with their value in each evaluation, and the number of equal settings."""
    told = [leaves(results.made_from) for _, results in evaluations]
    rows: list[tuple[str, tuple[str, ...]]] = []
    names = dict.fromkeys(name for one in told for name in one)
    for name in names:
        values = tuple(DASH if name not in one else _said(one[name]) for one in told)
        if len(set(values)) > 1:
            rows.append((name, values))
    return rows, len(names) - len(rows)


def interval_plots(evaluations: Sequence[NamedResults]) -> list[Markup]:
    """Plot of values and intervals by evaluation, for each metric with two values or more."""
    plots = []
    for row in metric_rows(evaluations):
        found = [
            (name, metric)
            for (name, _), metric in zip(evaluations, row.found, strict=True)
            if metric and metric.value is not None
        ]
        if len(found) > 1:
            plots.append(intervals(found))
    return plots


def scatters(evaluations: Sequence[NamedResults], clips: Sequence[str]) -> list[Markup]:
    """Plot of the second evaluation's scores over the first's for each metric; none unless there are two."""
    if len(evaluations) != 2:
        return []
    plots = []
    for metric in evaluations[0][1].metrics:
        names, scores = _scores(evaluations, clips, metric.name)
        if names:
            plots.append(scatter(metric, (evaluations[0][0], evaluations[1][0]), scores[0], scores[1]))
    return plots


def most_apart(
    evaluations: Sequence[NamedResults], clips: Sequence[str], folders: Sequence[Path], page: Path
) -> tuple[Metric | None, list[dict[str, object]]]:
    """Clips whose scores differ most, largest difference first: by S_KL, else by the first metric that all score.

    The difference is the second score minus the first of two evaluations, highest minus lowest of more.
    """
    metrics = sorted(evaluations[0][1].metrics, key=lambda metric: metric.name != "s_kl") if evaluations else []
    for metric in metrics:
        names, scores = _scores(evaluations, clips, metric.name)
        if not names or len(evaluations) < 2:
            continue
        order = np.argsort(-np.ptp(scores, axis=0), kind="stable")[:LISTED]
        by_name = [{clip.clip: clip for clip in results.clips} for _, results in evaluations]
        found: list[dict[str, object]] = []
        for place in order:
            same = [known[names[place]] for known in by_name]
            sources = zip((name for name, _ in evaluations), same, folders, strict=True)
            apart = np.diff(scores[:, place])[0] if len(same) == 2 else np.ptp(scores[:, place])
            told = {"clip": names[place], "caption": same[0].caption, "scores": scores[:, place].tolist()}
            found.append({**told, "difference": float(apart), "videos": videos_of(list(sources), page)})
        return metric, found
    return None, []


def _scores(evaluations: Sequence[NamedResults], clips: Sequence[str], metric: str) -> tuple[list[str], np.ndarray]:
    """Clips with a score in every evaluation, and the scores, shape (evaluation, clip)."""
    known = [{clip.clip: clip.scores for clip in results.clips} for _, results in evaluations]
    names = [clip for clip in clips if all(metric in scores[clip] for scores in known)]
    return names, np.array([[scores[clip][metric] for clip in names] for scores in known])


def _said(value: object) -> str:
    if isinstance(value, float):
        return number(value) if abs(value) >= 1e4 else f"{value:g}"
    return str(value)
