"""What a page says of several evaluations beside each other: where they differ, in settings, numbers and clips."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from con360av_jax.config.files import leaves
from con360av_jax.evaluate.digits import DASH, half_width, number
from con360av_jax.evaluate.examples import Film, films_of
from con360av_jax.evaluate.features import card_differences
from con360av_jax.evaluate.metrics.bootstrap import FEWEST_TO_DECIDE
from con360av_jax.evaluate.results import ClipScores, Metric, Results
from con360av_jax.evaluate.score_plots import intervals, scatter

MOST_APART = 12
"""Clips that are shown: those whose scores differ most between the arms."""
LISTED = 200
"""Clips in the table of those that differ, likewise."""

Arms = Sequence[tuple[str, Results]]


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One metric by each arm; None where an arm has not computed it."""

    metric: Metric
    found: tuple[Metric | None, ...]
    best: int | None
    """The arm whose interval lies apart from those of all others, on the better side; None if there is no such arm."""
    spread: float
    """Half the width of the narrowest interval: all values have equally many digits."""


@dataclass(frozen=True, kw_only=True)
class Apart:
    """One clip with what each arm has of it."""

    clip: str
    caption: str
    scores: tuple[float, ...]
    films: tuple[Film, ...]

    @property
    def difference(self) -> float:
        """From the lowest score to the highest; of two arms the second less the first."""
        if len(self.scores) == 2:
            return self.scores[1] - self.scores[0]
        return max(self.scores) - min(self.scores)


@dataclass(frozen=True, kw_only=True)
class MostApart:
    """Clips by how much the arms' scores differ by one metric, the greatest difference first."""

    metric: Metric | None
    clips: tuple[Apart, ...]
    shown: tuple[Apart, ...]
    """The first of them, with their films."""


def short_names(names: Sequence[str]) -> list[str]:
    """Names for headings: paths lose the folders at their beginning and at their end that all have in common."""
    if len(set(names)) < 2 or not all("/" in name for name in names):
        return list(names)
    parts = [name.split("/") for name in names]
    first = len(os.path.commonprefix(parts))
    last = min(len(os.path.commonprefix([part[::-1] for part in parts])), min(map(len, parts)) - first)
    short = ["/".join(part[first : len(part) - last]) for part in parts]
    return short if all(short) and len(set(short)) == len(names) else list(names)


def shared_clips(arms: Arms) -> tuple[str, ...]:
    """Names of the clips that every arm has, in the order of the first."""
    if not arms:
        return ()
    common = set.intersection(*({clip.clip for clip in results.clips} for _, results in arms))
    return tuple(clip.clip for clip in arms[0][1].clips if clip.clip in common)


def unlike(arms: Arms) -> list[str]:
    """What makes numbers of the arms incomparable: protocols, networks and settings other than the first arm's."""
    found: list[str] = []
    for name, results in arms[1:]:
        first_name, first = arms[0]
        both = leaves(first.protocol), leaves(results.protocol)
        told = [f"protocol {leaf}" for leaf in _keys(*both) if both[0].get(leaf) != both[1].get(leaf)]
        for part in _keys(first.cards, results.cards):
            if part in first.cards and part in results.cards:
                told += [f"{part} {said}" for said in card_differences(first.cards[part], results.cards[part])]
            else:
                told.append(f"{part} features in one only")
        if told:
            found.append(f"{first_name} and {name}: {'; '.join(told)}")
    return found


def metric_rows(arms: Arms) -> list[MetricRow]:
    """All metrics in the order of the arms that have them."""
    order = {metric.name: metric for _, results in reversed(arms) for metric in results.metrics}
    names = dict.fromkeys(metric.name for _, results in arms for metric in results.metrics)
    rows = []
    for name in names:
        found = tuple(results.metric(name) for _, results in arms)
        spreads = [width for metric in found if metric and (width := half_width(metric))]
        rows.append(MetricRow(metric=order[name], found=found, best=_best(found), spread=min(spreads, default=0.0)))
    return rows


def _best(found: Sequence[Metric | None]) -> int | None:
    """The arm that is surely best: each has an interval of enough clips, and one lies apart on the better side."""
    ends = [
        (metric.low, metric.high)
        for metric in found
        if metric and metric.value is not None and metric.low is not None and metric.high is not None
        if metric.clips >= FEWEST_TO_DECIDE
    ]
    if len(ends) < len(found) or len(ends) < 2:
        return None
    lower_is_better = all(metric.lower_is_better for metric in found if metric)
    best = min(range(len(ends)), key=lambda arm: ends[arm][1] if lower_is_better else -ends[arm][0])
    others = [end for arm, end in enumerate(ends) if arm != best]
    apart = all(ends[best][1] < low if lower_is_better else ends[best][0] > high for low, high in others)
    return best if apart else None


def excludes_zero(difference: Metric) -> bool:
    """Whether an interval of enough clips leaves no doubt about a difference's sign."""
    if difference.low is None or difference.high is None or difference.clips < FEWEST_TO_DECIDE:
        return False
    return not difference.low <= 0 <= difference.high


def differing(arms: Arms) -> tuple[list[tuple[str, tuple[str, ...]]], int]:
    """Settings whose values differ, each with its value by each arm; and how many are equal."""
    told = [leaves(results.made_from) for _, results in arms]
    rows: list[tuple[str, tuple[str, ...]]] = []
    names = _keys(*told)
    for name in names:
        values = tuple(DASH if name not in one else _said(one[name]) for one in told)
        if len(set(values)) > 1:
            rows.append((name, values))
    return rows, len(names) - len(rows)


def interval_plots(arms: Arms) -> list[Markup]:
    """Values with their intervals by arm, of each metric that two arms or more have a value of."""
    plots = []
    for row in metric_rows(arms):
        found = [
            (name, metric)
            for (name, _), metric in zip(arms, row.found, strict=True)
            if metric and metric.value is not None
        ]
        if len(found) > 1:
            plots.append(intervals(found))
    return plots


def scatters(arms: Arms, clips: Sequence[str]) -> list[Markup]:
    """Scores by the one arm against those by the other, of two arms; none of more."""
    if len(arms) != 2:
        return []
    plots = []
    for metric in arms[0][1].metrics:
        names, scores = _scores(arms, clips, metric.name)
        if names:
            plots.append(scatter(metric, (arms[0][0], arms[1][0]), scores[0], scores[1]))
    return plots


def most_apart(arms: Arms, clips: Sequence[str], folders: Sequence[Path] | None, page: Path) -> MostApart:
    """By S_KL, else by the first metric that all arms have scores of."""
    metrics = sorted(arms[0][1].metrics, key=lambda metric: metric.name != "s_kl") if arms else []
    for metric in metrics:
        names, scores = _scores(arms, clips, metric.name)
        if not names or len(arms) < 2:
            continue
        order = np.argsort(-np.ptp(scores, axis=0), kind="stable")[:LISTED]
        by_name = [{clip.clip: clip for clip in results.clips} for _, results in arms]
        found = tuple(
            _apart([known[names[place]] for known in by_name], scores[:, place], arms, folders, page) for place in order
        )
        return MostApart(metric=metric, clips=found, shown=found[:MOST_APART] if folders is not None else ())
    return MostApart(metric=None, clips=(), shown=())


def _apart(
    clips: Sequence[ClipScores], scores: np.ndarray, arms: Arms, folders: Sequence[Path] | None, page: Path
) -> Apart:
    films: tuple[Film, ...] = ()
    if folders is not None:
        films = films_of(
            [(name, clip, folder) for (name, _), clip, folder in zip(arms, clips, folders, strict=True)], page
        )
    return Apart(clip=clips[0].clip, caption=clips[0].caption, scores=tuple(map(float, scores)), films=films)


def _scores(arms: Arms, clips: Sequence[str], metric: str) -> tuple[list[str], np.ndarray]:
    """Clips that every arm has a score of, and the scores (arm clip)."""
    known = [{clip.clip: clip.scores for clip in results.clips} for _, results in arms]
    names = [clip for clip in clips if all(metric in scores[clip] for scores in known)]
    return names, np.array([[scores[clip][metric] for clip in names] for scores in known])


def _keys(*told) -> list[str]:
    return list(dict.fromkeys(name for one in told for name in one))


def _said(value: object) -> str:
    if isinstance(value, float):
        return number(value) if abs(value) >= 1e4 else f"{value:g}"
    return str(value)
