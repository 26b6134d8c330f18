"""Percentile bootstrap intervals of metrics, resampling recordings with replacement, in numpy, float64.

Clips of one recording (its segments and viewpoints) are correlated, and so are the rows of a clip: resampling clips or
rows would make intervals too narrow. With k_i the number of times that recording i is drawn:
(1) mean      sum k_i s_i / sum k_i n_i              s_i, n_i: the recording's sum and its number of values
(2) moments   n = sum k_i n_i,  mu = sum k_i n_i mu_i / n
(3)           M = sum k_i F_i^T F_i + sum k_i n_i (mu_i - mu)(mu_i - mu)^T,  F_i^T F_i: the recording's scatter
(4) root      tr (S R)^(1/2) = sum of sqrt(eigenvalues of L^T S L),  R = L L^T the reference's covariance

Recordings are reduced once to n_i, mu_i and F_i, where F_i has at most as many rows as the recording or as there are
dimensions. If the reference is not resampled, mu_i and F_i are also multiplied by L once: a draw is then one weighted
product (3) and the eigenvalues of one symmetric matrix (4), without eigenvectors or singular values.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from con360av_jax.errors import MetricError
from con360av_jax.evaluate.metrics.frechet import Covariance, Moments, factor, frechet_distance, moments

DRAWS = 1000
LEVEL = 0.95
FEWEST_TO_DECIDE = 6
"""Fewest recordings whose interval counts as significant: n differences have one sign by chance with 2^(1 - n)."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Value of a statistic over all recordings and its percentile interval."""

    value: float
    low: float
    high: float
    bias: float
    """Mean of the draws minus `value`: about 0 for a mean; above 0 for a Fréchet distance, because a draw has fewer
    distinct recordings. With few recordings for their dimensions the whole interval is above `value`: quote
    `centred`."""

    @property
    def centred(self) -> tuple[float, float]:
        """Interval shifted by minus the bias: the spread of `value` over recordings, around `value`.

        With few recordings it is too wide: about twice for four recordings per dimension of normal features. The bias
        of `value` itself from having few rows remains (see `frechet_infinity`).
        """
        return self.low - self.bias, self.high - self.bias


@dataclass(frozen=True)
class RecordingMoments:
    """Moments of each recording, in a form that sums quickly under any weights (equations 2 and 3)."""

    counts: Float[np.ndarray, "recording"]
    means: Float[np.ndarray, "recording dim"]
    factors: Float[np.ndarray, "factor_row dim"]
    """All F_i, stacked by rows."""
    owners: Int[np.ndarray, "factor_row"]
    """Index of the recording that each row of `factors` belongs to."""

    @classmethod
    def of(cls, recordings: Iterable[Float[np.ndarray, "row dim"]]) -> "RecordingMoments":
        """Moments of recordings given by the rows of each, all its clips together (`rows_by_recording`).

        Raises MetricError for fewer than two recordings, different dimensions, or as `frechet.moments` does.
        """
        counts: list[int] = []
        means: list[np.ndarray] = []
        factors: list[np.ndarray] = []
        for number, rows in enumerate(recordings):
            try:
                mean = moments(rows).mean
            except MetricError as error:
                raise MetricError(f"recording number {number}: {error}") from error
            if means and len(mean) != len(means[0]):
                raise MetricError(
                    f"recording number {number} has {len(mean)} dimensions, those before it {len(means[0])}"
                )
            centred = np.asarray(rows, np.float64) - mean
            if len(rows) > len(mean):
                centred = np.asarray(np.linalg.qr(centred, mode="r"))
            counts.append(len(rows))
            means.append(mean)
            factors.append(centred if len(rows) > 1 else centred[:0])
        if len(counts) < 2:
            raise MetricError(f"{len(counts)} recordings cannot be drawn from: give at least 2, better 100")
        owners = np.repeat(np.arange(len(counts)), [len(part) for part in factors])
        return cls(np.array(counts, np.float64), np.stack(means), np.concatenate(factors), owners)

    def total(self, weights: Int[np.ndarray, "recording"]) -> Moments:
        """Moments of all rows, each recording counted `weights` times."""
        counts = weights * self.counts
        mean = counts @ self.means / counts.sum()
        apart = self.means - mean
        scatter = (self.factors.T * weights[self.owners]) @ self.factors + (apart.T * counts) @ apart
        return Moments(int(counts.sum()), mean, scatter)

    def projected(self, onto: Float[np.ndarray, "dim rank"]) -> "RecordingMoments":
        """Moments of the rows after multiplication by a matrix."""
        return RecordingMoments(self.counts, self.means @ onto, self.factors @ onto, self.owners)

    def scatter_trace(self, weights: Int[np.ndarray, "recording"], mean: Float[np.ndarray, "dim"]) -> float:
        """Trace of the weighted scatter about its mean, without computing the scatter."""
        within = weights[self.owners] @ np.square(self.factors).sum(axis=1)
        return float(within + (weights * self.counts) @ np.square(self.means - mean).sum(axis=1))


def sums_by_recording(
    recordings: Sequence[str], sums: Float[np.ndarray, "clip"], counts: Float[np.ndarray, "clip"]
) -> tuple[Float[np.ndarray, "recording"], Float[np.ndarray, "recording"]]:
    """Sums and numbers of values of each recording, from those of its clips; `recordings` names each clip's."""
    places = {name: place for place, name in enumerate(dict.fromkeys(recordings))}
    owners = [places[name] for name in recordings]
    return np.bincount(owners, weights=sums), np.bincount(owners, weights=counts)


def rows_by_recording(
    recordings: Sequence[str], clips: Iterable[Float[np.ndarray, "row dim"]]
) -> list[Float[np.ndarray, "row dim"]]:
    """All rows of each recording, from those of its clips; `recordings` names each clip's."""
    found: dict[str, list[np.ndarray]] = {}
    for name, rows in zip(recordings, clips, strict=True):
        found.setdefault(name, []).append(np.asarray(rows))
    return [np.concatenate(parts) for parts in found.values()]


def bootstrap_mean(
    sums: Float[np.ndarray, "recording"],
    counts: Float[np.ndarray, "recording"],
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """Interval of the mean of all values, given each recording's sum and number of values (equation 1).

    Raises MetricError for fewer than two recordings, different lengths, values that are not finite, counts not above 0,
    fewer than 10 draws or a level outside (0, 1).
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    if sums.ndim != 1 or sums.shape != counts.shape or len(sums) < 2:
        raise MetricError(f"sums of {sums.shape}, counts of {counts.shape}: give one of each for at least 2 recordings")
    if not np.isfinite(sums).all() or not (np.isfinite(counts) & (counts > 0)).all():
        raise MetricError("sums must be finite, counts finite and above 0: leave out recordings that have no value")
    _check_draws(draws, level)
    weights = _weights(np.random.default_rng(seed), len(sums), draws)
    drawn = (weights @ sums) / (weights @ counts)
    return _interval(float(sums.sum() / counts.sum()), drawn, level)


def bootstrap_median(
    recordings: Sequence[Float[np.ndarray, "value"]], seed: int, draws: int = DRAWS, level: float = LEVEL
) -> Interval:
    """Interval of the median of all values, given those of each recording.

    Raises MetricError for fewer than two recordings, values that are not finite, fewer than 10 draws or a level outside
    (0, 1).
    """
    values = np.concatenate(recordings) if len(recordings) > 1 else np.zeros(0)
    if not len(values) or not np.isfinite(values).all():
        raise MetricError(f"{len(recordings)} recordings: give finite values of at least 2 recordings")
    _check_draws(draws, level)
    owners = np.repeat(np.arange(len(recordings)), [len(rows) for rows in recordings])
    weights = _weights(np.random.default_rng(seed), len(recordings), draws)[:, owners]
    drawn = np.array([np.median(np.repeat(values, times)) for times in weights])
    return _interval(float(np.median(values)), drawn, level)


def bootstrap_frechet(
    recordings: RecordingMoments,
    reference: Moments | RecordingMoments,
    covariance: Covariance,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """Interval of the Fréchet distance of recordings to a reference, in the unit of `frechet_distance`.

    A reference given as Moments is fixed: the interval covers the generated recordings only. One given as
    RecordingMoments is of the same recordings in the same order, and each draw takes both sides of a recording, at
    several times the cost. Quote `centred` unless recordings far outnumber dimensions.

    Raises MetricError if dimensions differ, for fewer than 10 draws, a level outside (0, 1), too few rows, or pairs of
    different numbers of recordings.
    """
    _check_draws(draws, level)
    number = len(recordings.counts)
    whole = np.ones(number, int)
    weights = _weights(np.random.default_rng(seed), number, draws)
    if isinstance(reference, Moments):
        value = frechet_distance(recordings.total(whole), reference, covariance)
        drawn = _to_fixed(recordings, reference, covariance, weights)
    else:
        if len(reference.counts) != number:
            raise MetricError(f"{number} recordings on one side, {len(reference.counts)} on the other: they are pairs")
        value, *drawn = (
            frechet_distance(recordings.total(one), reference.total(one), covariance) for one in (whole, *weights)
        )
    return _interval(value, np.array(drawn), level)


def _to_fixed(
    recordings: RecordingMoments, reference: Moments, covariance: Covariance, weights: Int[np.ndarray, "draw recording"]
) -> list[float]:
    """Distances of draws to a fixed reference (equation 4)."""
    root = factor(reference.covariance(covariance))
    projected = recordings.projected(root)
    trace = float(np.square(root).sum())
    distances: list[float] = []
    for drawn in weights:
        counts = drawn * recordings.counts
        mean = counts @ recordings.means / counts.sum()
        divisor = counts.sum() - (covariance == "unbiased")
        shared = np.linalg.eigvalsh(projected.total(drawn).scatter / divisor)
        # The root of an eigenvalue that is only rounding error would keep half of its digits.
        kept = shared > np.finfo(np.float64).eps * len(shared) * np.abs(shared).max(initial=0)
        spread = recordings.scatter_trace(drawn, mean) / divisor
        between = np.square(mean - reference.mean).sum()
        distances.append(float(between + spread + trace - 2 * np.sqrt(shared[kept]).sum()))
    return distances


def _weights(random: np.random.Generator, recordings: int, draws: int) -> Int[np.ndarray, "draw recording"]:
    """Number of times that each recording is drawn, in draws of as many recordings with replacement."""
    return random.multinomial(recordings, np.full(recordings, 1 / recordings), size=draws)


def _check_draws(draws: int, level: float) -> None:
    if draws < 10 or not 0 < level < 1:
        raise MetricError(f"{draws} draws at level {level:g}: give at least 10, better {DRAWS}, and 0 < level < 1")


def _interval(value: float, drawn: Float[np.ndarray, "draw"], level: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high), bias=float(drawn.mean() - value))
