"""The Fréchet distance between the Gaussians that fit two sets of features (FVD, FAD), in numpy, float64.

(1) moments     n, mu = sum x / n, M = sum (x - mu)(x - mu)^T
(2) merging     n = a + b,  mu = mu_a + (b / n) delta,  M = M_a + M_b + (a b / n) delta delta^T,  delta = mu_b - mu_a
(3) covariance  S = M / n "biased",  S = M / (n - 1) "unbiased"
(4) factor      S = L L^T,  L = V sqrt(w) over the eigenvalues w > eps dim max(w)
(5) distance    FD = |mu_1 - mu_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)
                with tr (S_1 S_2)^(1/2) = sum of the singular values of L_1^T L_2
(6) infinity    FD(n) = FD_inf + c / n fitted to subsets of n rows

The last term of (5) equals that of tr sqrtm(S_1 S_2) but is always real and needs no full rank: the rounding errors of
zero eigenvalues, which would keep half of their digits in a square root, are cut off before any root is taken.
(2) is Chan, Golub, LeVeque 1983; (5) Dowson, Landau 1982; (6) Chong, Forsyth 2020, for audio Gui et al. 2023.
StyleGAN-V takes "biased", fadtk and frechet-audio-distance "unbiased".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from con360av_jax.errors import MetricError

Covariance: TypeAlias = Literal["biased", "unbiased"]
Rows: TypeAlias = Float[np.ndarray, "row dim"]

POINTS = 25
SMALLEST = 500


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of rows (equation 1), float64: all that a Fréchet distance needs."""

    count: int
    mean: Float[np.ndarray, "dim"]
    scatter: Float[np.ndarray, "dim dim"]

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of both sets together (equation 2). Raises MetricError if their dimensions differ."""
        if len(self.mean) != len(other.mean):
            dims = f"{len(self.mean)} and of {len(other.mean)}"
            raise MetricError(f"features of {dims} dimensions: extract both with one network")
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        between = np.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def covariance(self, convention: Covariance) -> Float[np.ndarray, "dim dim"]:
        """Covariance of the rows (equation 3). Raises MetricError for fewer than two rows."""
        if self.count < 2:
            raise MetricError(f"{self.count} row has no covariance: give at least 2, better more than {len(self.mean)}")
        return self.scatter / (self.count if convention == "biased" else self.count - 1)


def moments(rows: Rows) -> Moments:
    """Moments of a block of rows. Raises MetricError if it is empty, not two-dimensional or not finite."""
    if rows.ndim != 2 or not rows.size:
        raise MetricError(f"features of shape {rows.shape}: give (row, dim) with at least one row")
    exact = np.asarray(rows, np.float64)
    if not np.isfinite(exact).all():
        row = int(np.isfinite(exact).all(axis=1).argmin())
        raise MetricError(f"features are not finite, first in row {row}: leave the clip out or extract it again")
    mean = exact.mean(axis=0)
    centred = exact - mean
    return Moments(len(exact), mean, centred.T @ centred)


def accumulate(blocks: Iterable[Rows]) -> Moments:
    """Moments of all rows in one pass over blocks; order and sizes of the blocks change about 1e-12, relative.

    Moments of shards or devices are joined in the same way, by `+`. Raises MetricError as `moments` does, and if there
    is no block.
    """
    found = map(moments, blocks)
    first = next(found, None)
    if first is None:
        raise MetricError("no features at all: give at least two rows")
    return reduce(Moments.__add__, found, first)


def frechet_distance(first: Moments, second: Moments, covariance: Covariance) -> float:
    """Fréchet distance (equation 5), in the square of the features' unit.

    With fewer rows than dimensions it is defined, but far too large; see `frechet_infinity`. Raises MetricError for
    fewer than two rows in either set or different dimensions.
    """
    return gaussian_distance(first.mean, first.covariance(covariance), second.mean, second.covariance(covariance))


def gaussian_distance(
    first_mean: Float[np.ndarray, "dim"],
    first_covariance: Float[np.ndarray, "dim dim"],
    second_mean: Float[np.ndarray, "dim"],
    second_covariance: Float[np.ndarray, "dim dim"],
) -> float:
    """Fréchet distance between two Gaussians (equation 5), of full rank or not; never negative.

    Raises MetricError if dimensions differ or a covariance is not finite, or has a clearly negative eigenvalue.
    """
    shapes = [np.shape(part) for part in (first_mean, first_covariance, second_mean, second_covariance)]
    dim = np.size(first_mean)
    if shapes != [(dim,), (dim, dim)] * 2:
        raise MetricError(f"means and covariances of shapes {shapes}: give features of one dimension")
    first_factor, second_factor = factor(first_covariance), factor(second_covariance)
    shared = np.linalg.svd(first_factor.T @ second_factor, compute_uv=False).sum()
    # Traces of the factors, not of the covariances, so that a set has distance 0 from itself.
    traces = np.square(first_factor).sum() + np.square(second_factor).sum()
    return max(0.0, float(np.square(first_mean - second_mean).sum() + traces - 2 * shared))


def factor(covariance: Float[np.ndarray, "dim dim"]) -> Float[np.ndarray, "dim rank"]:
    """Factor L of a covariance, with L L^T = covariance and rank many columns (equation 4), float64.

    Raises MetricError if the covariance is not finite or has an eigenvalue below -1e-6 of the largest.
    """
    exact = np.asarray(covariance, np.float64)
    if not np.isfinite(exact).all():
        raise MetricError("a covariance is not finite: the features are not, or their squares overflow float64")
    values, vectors = np.linalg.eigh((exact + exact.T) / 2)
    largest = float(np.abs(values).max())
    if values[0] < -1e-6 * largest:
        raise MetricError(
            f"a covariance has the eigenvalue {values[0]:.3g}: it is no covariance, give one from moments"
        )
    kept = values > np.finfo(np.float64).eps * len(values) * largest
    return vectors[:, kept] * np.sqrt(values[kept])


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """Fréchet distance extrapolated to infinitely many rows, and the fitted line (equation 6)."""

    value: float
    """FD_inf; may be a little below 0 if the true distance is about 0."""
    slope: float
    """Slope c of the bias over 1 / n."""
    r_squared: float
    """Share of the variance of `distances` that the line explains; NaN if all are equal."""
    counts: Int[np.ndarray, "point"]
    distances: Float[np.ndarray, "point"]


def frechet_infinity(
    reference: Moments,
    rows: Rows,
    covariance: Covariance,
    seed: int,
    points: int = POINTS,
    smallest: int = SMALLEST,
    replacement: bool = False,
) -> Extrapolation:
    """Fréchet distance of `rows` to a reference, without the bias of having few rows (equation 6).

    Draws subsets of `points` sizes from `smallest` (or half of the rows, if fewer) to all rows; the line is valid if
    even the smallest has more rows than dimensions. The bias of having few rows in the reference remains.
    `replacement=True` draws as fadtk does, which leaves c / (number of all rows) in the value.

    Raises MetricError for fewer than four rows or two points, or as `frechet_distance` does.
    """
    if len(rows) < 4 or points < 2 or smallest < 2:
        raise MetricError(f"{len(rows)} rows, {points} points from {smallest} on: give at least 4 rows, 2 points, 2")
    random = np.random.default_rng(seed)
    counts = np.unique(np.linspace(min(smallest, len(rows) // 2), len(rows), points).astype(int))
    distances = []
    for count in counts:
        chosen = random.choice(len(rows), size=count, replace=replacement)
        distances.append(frechet_distance(moments(rows[np.sort(chosen)]), reference, covariance))
    distances = np.array(distances)
    inverse = 1 / counts
    slope, value = np.polyfit(inverse, distances, 1)
    spread = np.square(distances - distances.mean()).sum()
    unexplained = np.square(distances - slope * inverse - value).sum()
    return Extrapolation(
        value=float(value),
        slope=float(slope),
        r_squared=float(1 - unexplained / spread) if spread > 0 else float("nan"),
        counts=counts,
        distances=distances,
    )
