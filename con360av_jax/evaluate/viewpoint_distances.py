"""Fréchet distances between generated clips of the same scenes, captions and noise from different viewpoints.

A comparison has one clip of a scene on either side: between two viewpoints one pair of clips per scene; over all
viewpoints, which is the viewpoint comparison in Table 1 of the paper, every pair of viewpoints of every scene, the one
with the smaller index on the first side. With n viewpoints each clip is then in n - 1 pairs.
The interval draws recordings, both sides of a pair together, because the pair shares scene and noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from con360av_jax.evaluate.extraction import Pair
from con360av_jax.evaluate.feature_metrics import Measure, few_rows, measures
from con360av_jax.evaluate.features import FeatureSet, require_same_card
from con360av_jax.evaluate.metrics.bootstrap import RecordingMoments, bootstrap_frechet, rows_by_recording
from con360av_jax.evaluate.metrics.frechet import accumulate, frechet_distance
from con360av_jax.evaluate.pairs import select_clips
from con360av_jax.evaluate.results import ONE_RECORDING, Metric
from con360av_jax.evaluate.run import Evaluation
from con360av_jax.evaluate.selection import clip_name, recording_of_clip

Between = dict[tuple[str, str, str], Metric]
"""Fréchet distances by variant, the variant it is compared with, and name of the metric."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Features of the scenes that two viewpoints share, clip by clip in the same order."""

    generated: tuple[FeatureSet, FeatureSet]
    targets: tuple[FeatureSet, FeatureSet]
    left_out: int
    """Number of scenes without features of all four clips."""


def viewpoint_distances(
    evaluations: Sequence[Evaluation], features: Sequence[Mapping[str, Pair]]
) -> tuple[Between, list[Metric]]:
    """Distances between the clips of each viewpoint and of each earlier one, and one for each measure over all pairs.

    Args:
        evaluations: one for each viewpoint, of the same scenes in the same order.
        features: their features by part.

    A distance without a scene that has all features has no value. Raises MetricError if features were extracted
    differently.
    """
    first = evaluations[0]
    found: Between = {}
    pooled: list[Metric] = []
    for measure in measures(first.protocol):
        pairs = {
            (other.folder.name, one.folder.name): _compared(measure, (one, other), (mine, theirs))
            for (one, mine), (other, theirs) in combinations(zip(evaluations, features, strict=True), 2)
        }
        for (other, one), compared in pairs.items():
            name, title = f"{measure.name}_to_{one}", f"{measure.title} between the samples of {other} and {one}"
            metric = Metric(name=name, title=title, unit="", lower_is_better=False, value=None)
            found[other, one, measure.name] = _distance(metric, measure, [compared], first.making.seed, first.draws)
        title = f"{measure.title} between the samples of all viewpoints"
        metric = Metric(name=measure.name, title=title, unit="", lower_is_better=False, value=None)
        pooled.append(_distance(metric, measure, list(pairs.values()), first.making.seed, first.draws))
    return found, pooled


def _compared(
    measure: Measure,
    evaluations: tuple[Evaluation, Evaluation],
    features: tuple[Mapping[str, Pair], Mapping[str, Pair]],
) -> Compared | None:
    """Features of the scenes of which both viewpoints have those of the generated clip and of the target, or None."""
    one, other = evaluations
    if not all(measure.part in found for found in features):
        return None
    pairs = [found[measure.part] for found in features]
    names = [
        (clip_name(first.key), clip_name(second.key)) for first, second in zip(one.entries, other.entries, strict=True)
    ][: measure.most]
    there = [[{clip.clip for clip in side.clips} for side in pair] for pair in pairs]
    kept = [pair for pair in names if all(pair[i] in side for i in (0, 1) for side in there[i])]
    if not kept:
        return None
    sides: list[tuple[FeatureSet, FeatureSet]] = []
    for side in (0, 1):
        first, second = (select_clips(pairs[i][side], [pair[i] for pair in kept]) for i in (0, 1))
        require_same_card(first, second)
        sides.append((first, second))
    return Compared(generated=sides[0], targets=sides[1], left_out=len(names) - len(kept))


def _distance(metric: Metric, measure: Measure, given: Sequence[Compared | None], seed: int, draws: int) -> Metric:
    """The metric with the distance between both sides of all comparisons, its interval and that of the targets."""
    compared = [one for one in given if one is not None]
    if not compared:
        return replace(metric, note=f"no scene has {measure.part} features of all its clips")
    generated, targets = (
        [[rows for one in compared for rows in getattr(one, kind)[side]] for side in (0, 1)]
        for kind in ("generated", "targets")
    )
    dim = generated[0][0].shape[1]
    rows = [min(_rows(compared, kind, side) for side in (0, 1)) for kind in ("generated", "targets")]
    clips = [clip.clip for one in compared for side in one.generated for clip in side.clips]
    recordings = [recording_of_clip(clip.clip) for one in compared for clip in one.generated[0].clips]
    count, left_out = len(set(recordings)), sum(one.left_out for one in compared)
    metric = replace(metric, clips=len(set(clips)), recordings=count, rows=rows[0])
    notes = [f"{left_out} scene{'' if left_out == 1 else 's'} left out" if left_out else ""]
    if rows[1] > 1:
        metric = replace(metric, target=_frechet(targets, measure))
    if rows[0] < 2:
        return replace(metric, note="; ".join(filter(None, [f"{rows[0]} row has no covariance", *notes])))
    if count > 1:
        first, second = (RecordingMoments.of(rows_by_recording(recordings, side)) for side in _narrowed(generated))
        interval = bootstrap_frechet(first, second, measure.covariance, seed, draws)
        low, high = interval.centred
        metric = replace(metric, value=interval.value, low=low, high=high)
    else:
        metric = replace(metric, value=_frechet(generated, measure))
        notes.insert(0, ONE_RECORDING)
    return replace(metric, note="; ".join(filter(None, [few_rows(rows[0], dim), *notes])))


def _frechet(sides: Sequence[Sequence[np.ndarray]], measure: Measure) -> float:
    first, second = map(accumulate, sides)
    return frechet_distance(first, second, measure.covariance)


def _rows(compared: Sequence[Compared], kind: str, side: int) -> int:
    """Number of rows on a side, each clip counted once."""
    return sum({clip.clip: clip.rows for one in compared for clip in getattr(one, kind)[side].clips}.values())


def _narrowed(sides: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """The same rows in coordinates of the space that they span, where distances are the same and draws are quick."""
    basis, _ = np.linalg.qr(np.concatenate([rows for side in sides for rows in side]).astype(np.float64).T)
    return [[rows @ basis for rows in side] for side in sides]
