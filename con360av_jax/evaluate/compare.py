"""Differences between evaluations that have the same protocol, networks, targets and clips, with paired intervals.

The interval of a difference is that of the mean difference by clip: recordings are resampled, each clip with both of
its values (metrics/bootstrap.py, equation 1), which is more precise than two separate intervals.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from con360av_jax.config.files import changes, unstructure
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.features import card_differences
from con360av_jax.evaluate.metrics.bootstrap import DRAWS, FEWEST_TO_DECIDE, bootstrap_mean, sums_by_recording
from con360av_jax.evaluate.results import Results, read_results
from con360av_jax.evaluate.selection import recording_of_clip
from con360av_jax.runtime.files import write_text

NamedResults = tuple[str, Results]
"""Name of an evaluation in a comparison, and its results."""
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of one metric between an evaluation and the first."""

    name: str
    """Name of the metric."""
    title: str
    unit: str
    lower_is_better: bool
    first: str
    second: str
    first_value: float
    second_value: float
    value: float
    """Second minus first; with an interval, the mean over the clips that both score."""
    low: float | None = None
    """Lower end of the 95 % interval of the mean difference by clip; None without values by clip of two recordings."""
    high: float | None = None
    clips: int = 0
    """Number of clips that both evaluations score."""
    left_out: int = 0
    """Number of clips that only one of the two scores, for a fault of the other's generated clip."""
    recordings: int = 0
    """Number of recordings of these clips, which the interval draws."""
    better: str = ""
    """Name of the better evaluation if the interval excludes 0, is over at least FEWEST_TO_DECIDE recordings and leaves
    no clip out; else ""."""


def open_evaluations(folders: Sequence[Path]) -> list[NamedResults]:
    """Reads evaluations that can be compared.

    Raises MetricError as `read_results` does, for fewer than two folders, a repeated folder, or if the
    evaluations cannot be compared.
    """
    if len(folders) < 2:
        raise MetricError(f"--compare {' '.join(map(str, folders))}: give two evaluation folders or more")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise MetricError(f"--compare {' '.join(map(str, folders))}: the same evaluation twice")
    named = [(str(folder), read_results(folder)) for folder in folders]
    require_alike(named)
    return named


def require_alike(named: Sequence[NamedResults]) -> None:
    """Raises MetricError with every reason why the evaluations cannot be compared with the first."""
    (first_name, first), *others = named
    problems = [f"{first_name} and {name}: {problem}" for name, results in others for problem in unlike(first, results)]
    if problems:
        raise MetricError(f"these evaluations cannot be compared. {'. '.join(problems)}")


def measurement_differences(first: Results, second: Results) -> list[str]:
    """Differences in protocol and feature cards, each as one phrase.

    A protocol's negative caption is a setting of sampling, which compared evaluations may vary.
    """
    protocols = ({"protocol": {**results.protocol, "negative_caption": ""}} for results in (first, second))
    problems = [*changes(*protocols).values()]
    for part in sorted(first.cards.keys() | second.cards.keys()):
        if part not in first.cards or part not in second.cards:
            problems.append(f"features {part}: only in the {'first' if part in first.cards else 'second'}")
        else:
            found = card_differences(first.cards[part], second.cards[part])
            problems += [f"features {part}: {difference}" for difference in found]
    return problems


def unlike(first: Results, second: Results) -> list[str]:
    """Reasons why two evaluations cannot be compared: protocol, feature cards, targets, clips."""
    problems = measurement_differences(first, second)
    datasets = ({"dataset": results.made_from.get("dataset", {})} for results in (first, second))
    problems += [line for path, line in changes(*datasets).items() if not path.endswith(".path")]
    clips = [{clip.clip for clip in results.clips} for results in (first, second)]
    for which, only in (("first", clips[0] - clips[1]), ("second", clips[1] - clips[0])):
        if only:
            more = ", ..." if len(only) > _NAMED else ""
            problems.append(f"clips: {len(only)} only in the {which} ({', '.join(sorted(only)[:_NAMED])}{more})")
    return problems


def differences(named: Sequence[NamedResults], seed: int = 0, draws: int = DRAWS) -> list[Difference]:
    """Differences of each evaluation from the first, for every metric with a value in both."""
    first, *others = named
    return [
        found
        for other in others
        for metric in first[1].metrics
        if (found := _difference(metric.name, first, other, seed, draws)) is not None
    ]


def _difference(name: str, first: NamedResults, second: NamedResults, seed: int, draws: int) -> Difference | None:
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
    recordings = [recording_of_clip(clip) for clip in shared]
    count = len(set(recordings))
    if count < 2:
        return plain
    apart = np.array([scores[1][clip] - scores[0][clip] for clip in shared])
    interval = bootstrap_mean(*sums_by_recording(recordings, apart, np.ones(len(apart))), seed, draws)
    # Faulty targets are the same for both: a clip that only one scores is missing by the other model's own fault.
    left_out = len(scores[0].keys() ^ scores[1].keys())
    surely = not left_out and count >= FEWEST_TO_DECIDE and (interval.low > 0 or interval.high < 0)
    lower = interval.value < 0
    better = (second[0] if lower == one.lower_is_better else first[0]) if surely else ""
    plain = replace(plain, clips=len(shared), left_out=left_out, recordings=count, better=better)
    return replace(plain, value=interval.value, low=interval.low, high=interval.high)


def write_differences(named: Sequence[NamedResults], found: Sequence[Difference], path: Path, **more: object) -> None:
    """Writes a JSON file with each evaluation's metrics, the differences, and the entries of `more`."""
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
