"""Metrics of single clips, measured on both sides: means or medians over clips with intervals over recordings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from con360av_jax.errors import MetricError
from con360av_jax.evaluate.faults import Faults, Side, without_faulty_targets
from con360av_jax.evaluate.feature_metrics import ALL_EXCLUDED, Found, mean_metric
from con360av_jax.evaluate.features import open_features
from con360av_jax.evaluate.metrics.audio_class import RowsByClip
from con360av_jax.evaluate.metrics.bootstrap import bootstrap_median, rows_by_recording
from con360av_jax.evaluate.results import ONE_RECORDING, Exclusion, Metric
from con360av_jax.evaluate.selection import recording_of_clip

SIDES: tuple[Side, Side] = ("generated", "targets")
UNSEEN = 90.0
"""Direction error of a clip in which the object is not seen, degrees: the mean over random directions."""
NO_TRUTH = "there is no truth of its scene"
NO_OBJECT = "no object is in view in the middle frame"


@dataclass
class Measured:
    """Values of one metric by side and clip, and reasons of the clips that lack one."""

    metric: Metric
    values: dict[Side, dict[str, float]] = field(default_factory=lambda: {side: {} for side in SIDES})
    counts: dict[Side, dict[str, float]] = field(default_factory=lambda: {side: {} for side in SIDES})
    """Weight of each value in the mean; 1 where none is given."""
    median: bool = False
    """Whether the metric is the median of the values instead of their mean."""
    reasons: dict[str, str] = field(default_factory=dict)

    def leave_out(self, clip: str, reason: str) -> None:
        """Records why a clip has no value on one side or on both."""
        self.reasons[clip] = "; ".join(filter(None, [self.reasons.get(clip), reason]))

    def add_note(self, note: str) -> None:
        """Adds to the metric's note."""
        self.metric = self.metric.with_note(note)

    def exclusions(self) -> list[Exclusion]:
        """One exclusion for each clip without a value on a side."""
        return [Exclusion(clip=clip, metric=self.metric.name, reason=reason) for clip, reason in self.reasons.items()]

    def finished(self, seed: int, draws: int) -> Metric:
        """The metric with the mean or median over generated clips, its interval, and that of the targets."""
        clips = {side: tuple(self.values[side]) for side in SIDES}
        values = {side: np.array([self.values[side][clip] for clip in clips[side]]) for side in SIDES}
        weights = {side: np.array([self.counts[side].get(clip, 1.0) for clip in clips[side]]) for side in SIDES}
        metric = replace(self.metric, clips=len(clips["generated"]), rows=len(clips["generated"]))
        if clips["targets"]:
            found = values["targets"], weights["targets"]
            target = np.median(found[0]) if self.median else np.average(found[0], weights=found[1])
            metric = replace(metric, target=float(target))
        if not clips["generated"]:
            return metric.with_note(ALL_EXCLUDED)
        if self.median:
            return _median_metric(metric, clips["generated"], values["generated"], seed, draws)
        sums = values["generated"] * weights["generated"]
        return mean_metric(metric, clips["generated"], sums, weights["generated"], seed, draws)


def _median_metric(metric: Metric, clips: Sequence[str], values: np.ndarray, seed: int, draws: int) -> Metric:
    """The metric with the median of all values, and its interval if the clips are of two recordings or more."""
    recordings = [recording_of_clip(clip) for clip in clips]
    metric = replace(metric, recordings=len(set(recordings)))
    if metric.recordings < 2:
        return replace(metric, value=float(np.median(values))).with_note(ONE_RECORDING)
    interval = bootstrap_median(rows_by_recording(recordings, values[:, None]), seed, draws)
    return replace(metric, value=interval.value, low=interval.low, high=interval.high)


def together(found: Sequence[Measured], seed: int, draws: int) -> Found:
    """The finished metrics with the scores of generated clips and the exclusions."""
    all_found = Found()
    for one in found:
        all_found.metrics.append(one.finished(seed, draws))
        all_found.score(one.metric.name, one.values["generated"])
        all_found.exclusions += one.exclusions()
    return all_found


def features_by_clip(folder: Path, part: str, faults: Faults) -> dict[Side, RowsByClip] | None:
    """Features of a part on both sides without faulty targets, or None if it was not extracted."""
    folders = [folder / "features" / side / part for side in SIDES]
    if not all(path.is_dir() for path in folders):
        return None
    pair = open_features(folders[0]), open_features(folders[1])
    generated, targets = without_faulty_targets({part: pair}, faults)[part]
    return {"generated": RowsByClip.of(generated), "targets": RowsByClip.of(targets)}


def no_features(clip: str, features: Mapping[Side, RowsByClip]) -> str:
    """Why the pair of a clip has no features, or ""; raises MetricError if only the generated clip has none."""
    if clip not in features["targets"]:
        return f"target: {features['targets'].reason(clip)}"
    if clip not in features["generated"]:
        rows = features["generated"]
        raise MetricError(f"{rows.features.folder} lacks {clip}, which counts: {rows.reason(clip)}; extract it again")
    return ""
