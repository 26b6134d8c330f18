"""Fréchet distances equal the published formulas, for any number of rows and any order of blocks."""

import numpy as np
import pytest
import scipy.linalg

from con360av_jax.errors import MetricError
from con360av_jax.evaluate.metrics.frechet import (
    Moments,
    accumulate,
    factor,
    frechet_distance,
    frechet_infinity,
    gaussian_distance,
    moments,
)


def features(seed: int, rows: int, dim: int, shift: float = 0.0) -> np.ndarray:
    """Correlated normal rows with other scales in every direction."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dim, dim)) * np.logspace(0, -2, dim)
    return random.normal(size=(rows, dim)) @ mixing + random.normal(size=dim) * 0.1 + shift


def published(first: np.ndarray, second: np.ndarray, bias: bool = False, root=scipy.linalg.sqrtm) -> float:
    """The formula of pytorch-fid, StyleGAN-V (bias) and frechet-audio-distance (no bias), stated a second time."""
    one, other = (np.cov(rows, rowvar=False, bias=bias) for rows in (first, second))
    difference = first.mean(axis=0) - second.mean(axis=0)
    return float(difference @ difference + np.trace(one + other) - 2 * np.trace(np.real(root(one @ other))))


def root_by_eigenvalues(product: np.ndarray) -> np.ndarray:
    """The square root in fadtk's formula: V sqrt(D) V^-1."""
    values, vectors = np.linalg.eig(product)
    return (vectors * np.emath.sqrt(values)) @ scipy.linalg.inv(vectors)


@pytest.mark.parametrize("dim", [1, 7, 64])
def test_the_distance_is_that_of_the_published_programs(dim: int):
    first, second = features(0, 300, dim), features(1, 200, dim, shift=0.3)
    unbiased = frechet_distance(moments(first), moments(second), "unbiased")
    if dim > 1:
        assert unbiased == pytest.approx(published(first, second), rel=1e-6)
        assert unbiased == pytest.approx(published(first, second, root=root_by_eigenvalues), rel=1e-6)
        biased = frechet_distance(moments(first), moments(second), "biased")
        assert biased == pytest.approx(published(first, second, bias=True), rel=1e-6)
        assert biased != pytest.approx(unbiased, rel=1e-6)
    else:
        spread = first.std(ddof=1) - second.std(ddof=1)
        assert unbiased == pytest.approx(float((first.mean() - second.mean()) ** 2 + spread**2), rel=1e-9)


def test_two_known_gaussians():
    """Covariances that commute: |mu_1 - mu_2|^2 + sum (sqrt a - sqrt b)^2."""
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    first, second = (turned @ np.diag(values) @ turned.T for values in ([4.0, 1.0, 9.0], [1.0, 16.0, 0.0]))
    distance = gaussian_distance(np.zeros(3), first, np.array([1.0, 2.0, 2.0]), second)
    assert distance == pytest.approx(9 + (2 - 1) ** 2 + (1 - 4) ** 2 + 3**2, rel=1e-12)


@pytest.mark.parametrize("rows", [2, 20, 400])
def test_a_set_against_itself_has_no_distance(rows: int):
    found = moments(features(0, rows, 128).astype(np.float32))
    scale = np.trace(found.covariance("unbiased"))
    assert frechet_distance(found, found, "unbiased") <= 1e-9 * scale


def test_fewer_rows_than_dimensions():
    """Rank 9 and 14 in 64 dimensions: the root's trace is that of the small product of centred rows."""
    first, second = features(0, 10, 64), features(1, 15, 64)
    one, other = ((rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1) for rows in (first, second))
    root = np.linalg.norm(one @ other.T, ord="nuc")
    wanted = (
        np.square(first.mean(axis=0) - second.mean(axis=0)).sum() + np.square(one).sum() + np.square(other).sum()
    ) - 2 * root
    assert frechet_distance(moments(first), moments(second), "unbiased") == pytest.approx(wanted, rel=1e-9)
    assert factor(moments(first).covariance("unbiased")).shape == (64, 9)


def test_identical_rows_have_a_covariance_of_zero():
    still, other = moments(np.ones((5, 4))), moments(np.zeros((3, 4)))
    assert frechet_distance(still, other, "biased") == pytest.approx(4.0, rel=1e-12)


def test_order_blocks_and_shards_do_not_matter():
    rows = features(0, 501, 16, shift=5.0).astype(np.float32)
    shuffled = rows[np.random.default_rng(1).permutation(len(rows))]
    whole = moments(rows)
    blocks = accumulate(shuffled[start : start + 37] for start in range(0, len(rows), 37))
    single = accumulate(row[None] for row in rows[::-1])
    shards = accumulate([rows[:100]]) + (accumulate([rows[400:]]) + accumulate([rows[100:250], rows[250:400]]))
    for other in (blocks, single, shards):
        assert other.count == whole.count
        np.testing.assert_allclose(other.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(other.scatter, whole.scatter, rtol=0, atol=1e-12 * np.trace(whole.scatter))
    np.testing.assert_allclose(whole.covariance("unbiased"), np.cov(rows.astype(float), rowvar=False), atol=1e-12)


def test_the_distance_is_symmetric():
    one, other = moments(features(0, 30, 8)), moments(features(1, 40, 8))
    assert frechet_distance(one, other, "biased") == pytest.approx(frechet_distance(other, one, "biased"), rel=1e-12)


def test_infinitely_many_rows_have_the_analytic_distance():
    """Rows of N(shift, I) against N(0, I): the truth is |shift|^2; with few rows the distance is clearly above it."""
    dim, random = 16, np.random.default_rng(0)
    reference = Moments(10**9, np.zeros(dim), np.eye(dim) * 1e9)
    rows = random.normal(size=(1000, dim)) + 0.25
    found = frechet_infinity(reference, rows, "unbiased", seed=0, points=15, smallest=100)
    plain = frechet_distance(moments(rows), reference, "unbiased")
    # The mean of 1,000 rows has a standard error of 2 |shift| / sqrt(1000) = 0.063 along the shift.
    assert found.value == pytest.approx(1.0, abs=0.2)
    assert found.slope > 0
    assert found.value < plain


def test_infinitely_many_rows_of_one_gaussian_have_no_distance():
    """Averaged over ten draws of rows, since one draw's own luck does not vanish with the line."""
    dim, random = 16, np.random.default_rng(0)
    reference = Moments(10**9, np.zeros(dim), np.eye(dim) * 1e9)
    found = [
        frechet_infinity(reference, random.normal(size=(2000, dim)), "unbiased", seed, points=10, smallest=250)
        for seed in range(10)
    ]
    plain = np.mean([one.distances[-1] for one in found])
    # To first order c is the dimension for the mean and dim (dim + 1) / 4 for the covariance.
    assert plain == pytest.approx((dim + dim * (dim + 1) / 4) / 2000, rel=0.1)
    assert abs(np.mean([one.value for one in found])) < 0.1 * plain
    assert min(one.r_squared for one in found) > 0.9


def test_the_seed_decides_the_subsets():
    reference, rows = moments(features(0, 50, 4)), features(1, 60, 4)
    drawn = [frechet_infinity(reference, rows, "biased", seed, points=5, smallest=20).distances for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0][:-1] != drawn[2][:-1]).all()
    assert drawn[0][-1] == drawn[2][-1] == frechet_distance(moments(rows), reference, "biased")
    replaced = frechet_infinity(reference, rows, "biased", 0, points=5, smallest=20, replacement=True)
    assert replaced.distances[-1] != drawn[0][-1]


def test_wrong_features_are_named():
    good = moments(np.eye(3))
    corrupt = np.zeros((4, 3), np.float32)
    corrupt[2, 1] = np.nan
    for message, wrong in (
        ("not finite, first in row 2", lambda: moments(corrupt)),
        ("at least 2", lambda: frechet_distance(good, moments(np.ones((1, 3))), "biased")),
        (r"\(row, dim\)", lambda: moments(np.ones(3))),
        (r"\(row, dim\)", lambda: moments(np.ones((0, 3)))),
        ("no features", lambda: accumulate(iter(()))),
        ("one dimension", lambda: frechet_distance(good, moments(np.eye(4)), "biased")),
        ("3 and of 4 dimensions", lambda: good + moments(np.eye(4))),
        ("eigenvalue -1", lambda: factor(np.diag([1.0, -1.0]))),
        ("not finite", lambda: factor(np.diag([1.0, np.inf]))),
        ("at least 4 rows", lambda: frechet_infinity(good, np.eye(3), "biased", seed=0)),
    ):
        with pytest.raises(MetricError, match=message):
            wrong()
