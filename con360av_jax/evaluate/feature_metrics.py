"""Metrics from extracted features: Fréchet distances, S_KL, and each clip's distance to its target.

(1) distance   1 - a . b / (|a| |b|),  a, b: mean features of a clip and of its target; 0 the same, 1 unrelated, as is
               a = 0, which silence can have
All metrics process the clips in the order of clips.jsonl, whatever the order in the feature files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from con360av_jax.errors import ConfigError
from con360av_jax.evaluate.extraction import Pair
from con360av_jax.evaluate.features import FeatureSet
from con360av_jax.evaluate.metrics.bootstrap import (
    DRAWS,
    RecordingMoments,
    bootstrap_frechet,
    bootstrap_mean,
    rows_by_recording,
    sums_by_recording,
)
from con360av_jax.evaluate.metrics.frechet import (
    POINTS,
    SMALLEST,
    Covariance,
    Moments,
    accumulate,
    frechet_distance,
    frechet_infinity,
)
from con360av_jax.evaluate.metrics.saliency import compare_saliency
from con360av_jax.evaluate.pairs import pair_up, select_clips
from con360av_jax.evaluate.protocols import Protocol, SaliencyProtocol
from con360av_jax.evaluate.results import ONE_RECORDING, Exclusion, Metric
from con360av_jax.evaluate.selection import recording_of_clip

ALL_EXCLUDED = "every clip is excluded"
_NETWORKS = {"i3d_torchscript": "I3D"}


@dataclass
class Found:
    """Metrics in the order of a report, scores by clip and metric, and exclusions."""

    metrics: list[Metric] = field(default_factory=list)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    exclusions: list[Exclusion] = field(default_factory=list)

    def score(self, metric: str, values: Mapping[str, float]) -> None:
        """Adds the value of a metric for each clip."""
        for clip, value in values.items():
            self.scores.setdefault(clip, {})[metric] = value

    def add(self, more: "Found") -> None:
        """Adds what was found elsewhere."""
        self.metrics += more.metrics
        self.exclusions += more.exclusions
        for clip, values in more.scores.items():
            self.scores.setdefault(clip, {}).update(values)


def compute(
    protocol: Protocol, features: Mapping[str, Pair], clips: Sequence[str], seed: int = 0, draws: int = DRAWS
) -> Found:
    """All metrics of a protocol over these clips, from the features of its parts except "classes".

    A clip whose target was rejected is excluded from both sides, with the reason. Raises MetricError if the two sides
    were extracted differently, a clip lacks features on one side without a reason, only its generated side was
    rejected, or features are corrupt.
    """
    found = Found()
    if protocol.saliency is not None:
        _saliency(found, protocol.saliency, features.get("saliency"), clips, seed, draws)
    for measure in measures(protocol):
        pair = features.get(measure.part)
        _frechet(found, measure, pair, clips, seed, draws)
        _distance(found, measure, pair, clips, seed, draws)
    return found


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Definition of one Fréchet distance: its features, name and conventions."""

    part: str
    """Name of the feature set."""
    name: str
    network: str
    """Name of the network in titles."""
    covariance: Covariance
    points: int = POINTS
    smallest: int = SMALLEST
    most: int | None = None
    """Largest number of clips, the first ones; None uses all."""

    @property
    def title(self) -> str:
        """Title of the metric with its network, such as "FAD (YAMNet)"."""
        kind = self.name.partition("_")[0]
        return f"{'Fréchet distance' if kind == 'frechet' else kind.upper()} ({self.network})"


def measures(protocol: Protocol) -> list[Measure]:
    """Fréchet distances of a protocol: FAD, and FVD for each number of frames, or those of the judges' features."""
    found: list[Measure] = []
    if protocol.judge is not None:
        found += [
            Measure(
                part=f"{kind}_judge",
                name=f"frechet_{kind}_judge",
                network=f"{kind} judge",
                covariance=protocol.judge.covariance,
            )
            for kind in ("video", "audio")
        ]
    if (sound := protocol.sound) is not None:
        found.append(
            Measure(
                part="sound",
                name="fad",
                network=network(sound.extractor),
                covariance=sound.covariance,
                points=sound.infinity_points,
                smallest=sound.infinity_smallest,
            )
        )
    if (video := protocol.video) is not None:
        found += [
            Measure(
                part=f"video_{frames}",
                name=f"fvd_{frames}",
                network=f"{network(video.extractor)}, {frames} frames",
                covariance=video.covariance,
                most=None if video.clips == "all" else video.clips,
            )
            for frames in video.frames
        ]
    return found


def check_draws(draws: int) -> None:
    """Raises ConfigError for fewer draws than an interval needs."""
    if draws < 10:
        raise ConfigError(f"--draws {draws}: give at least 10, better {DRAWS}")


def network(extractor: str) -> str:
    """Short name of a protocol's extractor for titles, without its variant and training data."""
    return _NETWORKS.get(extractor, extractor.partition(",")[0])


def _without(found: Found, metric: Metric, clips: Sequence[str], part: str) -> None:
    """Adds a metric without value: extraction found no usable clip of the part on one side."""
    found.metrics.append(replace(metric, note=ALL_EXCLUDED))
    reason = f"no clip of one side is usable for {part}"
    found.exclusions += [Exclusion(clip=clip, metric=metric.name, reason=reason) for clip in clips]


def _saliency(
    found: Found, protocol: SaliencyProtocol, pair: Pair | None, clips: Sequence[str], seed: int, draws: int
) -> None:
    title = f"S_KL ({network(protocol.extractor)})"
    metric = Metric(name="s_kl", title=title, unit="nats", lower_is_better=True, value=None)
    if pair is None:
        _without(found, metric, clips, "saliency")
        return
    (generated, target), left_out = pair_up(pair, clips, "s_kl")
    found.exclusions += left_out
    if not generated.clips:
        found.metrics.append(replace(metric, note=ALL_EXCLUDED))
        return
    compared = compare_saliency(generated, target, protocol.weighting, protocol.epsilon)
    found.exclusions += [
        Exclusion(clip=one.clip, metric="s_kl", reason="target: its saliency map is all zero", frame=one.frame)
        for one in compared.excluded
    ]
    found.score("s_kl", dict(zip(compared.clips, (compared.sums / compared.frames).tolist(), strict=True)))
    counts = {"clips": len(compared.clips), "rows": int(compared.frames.sum())}
    metric = replace(metric, **counts)
    found.metrics.append(mean_metric(metric, compared.clips, compared.sums, compared.frames, seed, draws))


def mean_metric(
    metric: Metric, clips: Sequence[str], sums: np.ndarray, counts: np.ndarray, seed: int, draws: int
) -> Metric:
    """The metric with the mean of all values, and its interval if the clips are of two recordings or more."""
    sums, counts = sums_by_recording([recording_of_clip(clip) for clip in clips], sums, counts)
    metric = replace(metric, recordings=len(sums))
    if len(sums) < 2:
        return replace(metric, value=float(sums.sum() / counts.sum())).with_note(ONE_RECORDING)
    interval = bootstrap_mean(sums, counts, seed, draws)
    return replace(metric, value=interval.value, low=interval.low, high=interval.high)


def _distance(found: Found, measure: Measure, pair: Pair | None, clips: Sequence[str], seed: int, draws: int) -> None:
    """Adds each clip's distance to its target (equation 1) and the mean."""
    name, what = f"{measure.part}_distance", measure.part.partition("_")[0]
    title = f"distance of each {what} to its target (1 - cosine, {measure.network})"
    metric = Metric(name=name, title=title, unit="", lower_is_better=True, value=None)
    if pair is None:
        _without(found, metric, clips, measure.part)
        return
    (generated, target), left_out = pair_up(pair, clips, name, measure.most)
    found.exclusions += left_out
    distances: dict[str, float] = {}
    for clip, one, other in zip(generated.clips, generated, target, strict=True):
        means = [np.asarray(rows, np.float64).mean(axis=0) for rows in (one, other)]
        lengths = [float(np.linalg.norm(mean)) for mean in means]
        if lengths[1] == 0:
            reason = "target: all features are 0, they have no direction"
            found.exclusions.append(Exclusion(clip=clip.clip, metric=name, reason=reason))
            continue
        cosine = float(means[0] @ means[1]) / (lengths[0] * lengths[1]) if lengths[0] else 0.0
        distances[clip.clip] = max(0.0, 1 - cosine)
    found.score(name, distances)
    if not distances:
        found.metrics.append(replace(metric, note=ALL_EXCLUDED))
        return
    values = np.array(list(distances.values()))
    metric = replace(metric, clips=len(values), rows=len(values))
    found.metrics.append(mean_metric(metric, tuple(distances), values, np.ones(len(values)), seed, draws))


def _frechet(found: Found, measure: Measure, pair: Pair | None, clips: Sequence[str], seed: int, draws: int) -> None:
    if pair is None:
        metric = Metric(name=measure.name, title=measure.title, unit="", lower_is_better=True, value=None)
        _without(found, metric, clips, measure.part)
        return
    (generated, target), left_out = pair_up(pair, clips, measure.name, measure.most)
    kept = [clip.clip for clip in generated.clips][: measure.most]
    found.exclusions += left_out
    found.metrics += frechet_metrics(measure, select_clips(generated, kept), select_clips(target, kept), seed, draws)


def frechet_metrics(measure: Measure, generated: FeatureSet, target: FeatureSet, seed: int, draws: int) -> list[Metric]:
    """Fréchet distance of all rows with its bootstrap interval, and the distance for infinitely many rows."""
    metric = Metric(name=measure.name, title=measure.title, unit="", lower_is_better=True, value=None)
    infinite = replace(metric, name=f"{measure.name}_infinity", title=f"{measure.title}, infinitely many rows")
    rows = [sum(clip.rows for clip in side.clips) for side in (generated, target)]
    recordings = [recording_of_clip(clip.clip) for clip in generated.clips]
    counts = {"clips": len(recordings), "recordings": len(set(recordings)), "rows": rows[0]}
    metric, infinite = (replace(one, **counts) for one in (metric, infinite))
    if min(rows) < 2:
        note = f"{min(rows)} row has no covariance" if min(rows) else ALL_EXCLUDED
        return [replace(one, note=note) for one in (metric, infinite)]
    dim, reference = generated.values.shape[1], accumulate(target)
    if counts["recordings"] > 1:
        summed = RecordingMoments.of(rows_by_recording(recordings, generated))
        interval = bootstrap_frechet(summed, reference, measure.covariance, seed, draws)
        low, high = interval.centred
        metric = replace(metric, value=interval.value, low=low, high=high)
    else:
        value = frechet_distance(accumulate(generated), reference, measure.covariance)
        metric = replace(metric, value=value, note=ONE_RECORDING)
    return [metric.with_note(few_rows(min(rows), dim)), _infinite(infinite, measure, reference, generated, dim, seed)]


def few_rows(rows: int, dim: int) -> str:
    """Note of a distance with no more rows than dimensions; "" with more."""
    if rows > dim:
        return ""
    return f"{rows} rows for {dim} dimensions: far too large, compare only with equally many clips"


def _infinite(
    metric: Metric, measure: Measure, reference: Moments, generated: FeatureSet, dim: int, seed: int
) -> Metric:
    """The metric for infinitely many rows; without value if a subset would have no more rows than dimensions."""
    if metric.rows // 2 <= dim or reference.count <= dim:
        return replace(metric, note=f"needs more than {2 * dim + 1} rows for {dim} dimensions, has {metric.rows}")
    smallest = max(measure.smallest, dim + 1)
    rows = np.concatenate(list(generated))
    line = frechet_infinity(reference, rows, measure.covariance, seed, measure.points, smallest)
    note = f"line through {len(line.counts)} sizes from {line.counts[0]} rows, R^2 {line.r_squared:.3f}"
    return replace(metric, value=line.value, note=note)
