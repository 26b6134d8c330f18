"""Evaluations side by side: only where network, protocol, targets and clips are the same, with intervals by clip.

Two evaluations of the same clips differ less by chance than each of them alone: the interval is that of the mean
difference, drawing clips with both of their values again and again (equation 1 of bootstrap.py).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from con360av_jax.config.files import leaves, unstructure
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.features import card_differences
from con360av_jax.evaluate.metrics.bootstrap import DRAWS, FEWEST_TO_DECIDE, bootstrap_mean
from con360av_jax.evaluate.results import Metric, Results, read_results
from con360av_jax.runtime.files import write_text

Named = tuple[str, Results]
"""What an evaluation is called in a comparison, and what it found."""
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A metric of one evaluation minus that of the first."""

    name: str
    """Of the metric."""
    title: str
    unit: str
    lower_is_better: bool
    first: str
    second: str
    first_value: float
    second_value: float
    value: float
    """Second minus first; where there is an interval, the mean over the clips that both have a value of."""
    low: float | None = None
    """95 % interval of the mean difference by clip; None where a metric has no values by clip."""
    high: float | None = None
    clips: int = 0
    """Behind the interval."""
    better: str = ""
    """Name of the better one where the interval of enough clips leaves no doubt, else ""."""

    @property
    def metric(self) -> Metric:
        """As the page shows it."""
        return Metric(
            name=self.name,
            title=f"{self.title}: {self.second} minus {self.first}",
            unit=self.unit,
            lower_is_better=self.lower_is_better,
            value=self.value,
            low=self.low,
            high=self.high,
            clips=self.clips,
        )


def open_evaluations(folders: Sequence[Path]) -> list[Named]:
    """Reads evaluations and makes sure that they can be compared.

    Raises MetricError as `read_results` does, for fewer than two, the same twice, or if they are unlike.
    """
    if len(folders) < 2:
        raise MetricError(f"--compare {' '.join(map(str, folders))}: give two evaluation folders or more")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise MetricError(f"--compare {' '.join(map(str, folders))}: the same evaluation twice")
    named = [(str(folder), read_results(folder)) for folder in folders]
    require_alike(named)
    return named


def require_alike(named: Sequence[Named]) -> None:
    """Raises MetricError that says all that keeps the evaluations from being compared with the first."""
    (first_name, first), *others = named
    problems = [f"{first_name} and {name}: {problem}" for name, results in others for problem in unlike(first, results)]
    if problems:
        raise MetricError(f"these evaluations cannot be compared. {'. '.join(problems)}")


def unlike(first: Results, second: Results) -> list[str]:
    """What keeps two evaluations from being compared, each as one phrase: protocol, cards, targets, clips."""
    problems: list[str] = []
    protocols = [leaves({"protocol": results.protocol}) for results in (first, second)]
    problems += _different(*protocols)
    for part in sorted(first.cards.keys() | second.cards.keys()):
        if part not in first.cards or part not in second.cards:
            problems.append(f"features {part}: only in the {'first' if part in first.cards else 'second'}")
        else:
            found = card_differences(first.cards[part], second.cards[part])
            problems += [f"features {part}: {difference}" for difference in found]
    datasets = [leaves({"dataset": results.made_from.get("dataset", {})}) for results in (first, second)]
    problems += _different(*({name: value for name, value in one.items() if name[-5:] != ".path"} for one in datasets))
    clips = [{clip.clip for clip in results.clips} for results in (first, second)]
    for which, only in (("first", clips[0] - clips[1]), ("second", clips[1] - clips[0])):
        if only:
            more = ", ..." if len(only) > _NAMED else ""
            problems.append(f"clips: {len(only)} only in the {which} ({', '.join(sorted(only)[:_NAMED])}{more})")
    return problems


def _different(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    return [
        f"{name}: {one.get(name, 'not given')} and {other.get(name, 'not given')}"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    ]


def differences(named: Sequence[Named], seed: int = 0, draws: int = DRAWS) -> list[Difference]:
    """Every metric that both have a value of, of each evaluation minus the first."""
    first, *others = named
    return [
        found
        for other in others
        for metric in first[1].metrics
        if (found := _difference(metric.name, first, other, seed, draws)) is not None
    ]


def _difference(name: str, first: Named, second: Named, seed: int, draws: int) -> Difference | None:
    one, other = first[1].metric(name), second[1].metric(name)
    if one is None or other is None or one.value is None or other.value is None:
        return None
    plain = Difference(
        name=name,
        title=one.title,
        unit=one.unit,
        lower_is_better=one.lower_is_better,
        first=first[0],
        second=second[0],
        first_value=one.value,
        second_value=other.value,
        value=other.value - one.value,
    )
    scores = [
        {clip.clip: clip.scores[name] for clip in side[1].clips if name in clip.scores} for side in (first, second)
    ]
    shared = [clip for clip in scores[0] if clip in scores[1]]
    if len(shared) < 2:
        return plain
    apart = np.array([scores[1][clip] - scores[0][clip] for clip in shared])
    interval = bootstrap_mean(apart, np.ones(len(apart)), seed, draws)
    surely = len(shared) >= FEWEST_TO_DECIDE and (interval.low > 0 or interval.high < 0)
    lower = interval.value < 0
    better = (second[0] if lower == one.lower_is_better else first[0]) if surely else ""
    return replace(plain, value=interval.value, low=interval.low, high=interval.high, clips=len(shared), better=better)


def page_differences(found: Sequence[Difference]) -> dict[str, Metric]:
    """The differences that have an interval, as the page takes them."""
    return {f"{one.name} {one.second} {one.first}": one.metric for one in found if one.low is not None}


def write_differences(named: Sequence[Named], found: Sequence[Difference], path: Path, **more: object) -> None:
    """Writes a JSON file: each evaluation's metrics, the differences, and `more`."""
    text = {
        "evaluations": [
            {
                "name": name,
                "command": results.command,
                "made_from": results.made_from,
                "metrics": [unstructure(metric) for metric in results.metrics],
            }
            for name, results in named
        ],
        "differences": [unstructure(one) for one in found],
        **more,
    }
    write_text(path, json.dumps(text, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
