"""Intervals cover the true value at their nominal rate, and clip moments are exact."""

import numpy as np
import pytest

from con360av_jax.errors import MetricError
from con360av_jax.evaluate.metrics.bootstrap import (
    RecordingMoments,
    bootstrap_frechet,
    bootstrap_mean,
    bootstrap_median,
)
from con360av_jax.evaluate.metrics.frechet import Moments, frechet_distance, moments


def clips(seed: int, rows: tuple[int, ...], dim: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=(count, dim)) + random.normal(size=dim) for count in rows]


def test_the_interval_of_a_mean_covers_the_truth():
    """Clips of three alike values: true mean 5. Drawing rows instead would cover about 75 times in 100."""
    random, covered, trials = np.random.default_rng(0), 0, 300
    for trial in range(trials):
        values = 5 + random.normal(size=(60, 1)) + 0.1 * random.normal(size=(60, 3))
        found = bootstrap_mean(values.sum(axis=1), np.full(60, 3.0), seed=trial, draws=400)
        assert found.value == pytest.approx(values.mean())
        covered += found.low <= 5 <= found.high
    assert 0.90 <= covered / trials <= 0.98


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap_mean(values, np.ones(400), seed=0, draws=4000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(400), rel=0.05)
    assert abs(found.bias) < 0.1 * (found.high - found.low)
    narrow = bootstrap_mean(values, np.ones(400), seed=0, draws=4000, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_clips_with_more_values_weigh_more():
    found = bootstrap_mean(np.array([1.0, 90.0]), np.array([1.0, 9.0]), seed=0, draws=100)
    assert found.value == pytest.approx(9.1)
    assert (found.low, found.high) == (1.0, 10.0)


@pytest.mark.parametrize("rows", [(1,) * 9, (4, 1, 2, 30, 3)])
def test_weighted_sums_of_clips_equal_repeated_rows(rows: tuple[int, ...]):
    given = clips(0, rows, 6)
    weights = np.random.default_rng(1).integers(0, 4, len(rows))
    found = RecordingMoments.of(given).total(weights)
    wanted = moments(np.concatenate([np.tile(part, (weight, 1)) for part, weight in zip(given, weights, strict=True)]))
    assert found.count == wanted.count
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-12)
    np.testing.assert_allclose(found.scatter, wanted.scatter, atol=1e-12 * np.trace(wanted.scatter))


def test_long_clips_are_kept_short():
    assert RecordingMoments.of(clips(0, (500, 3, 1), 6)).factors.shape == (6 + 3, 6)


@pytest.mark.parametrize("covariance", ["biased", "unbiased"])
@pytest.mark.parametrize("rows", [8, 300])
def test_the_quick_draws_equal_distances_of_repeated_rows(covariance, rows: int):
    """Also below full rank, on either side."""
    given, reference = clips(0, (2, 1, 3, 1, 4, 2), 12), moments(np.random.default_rng(3).normal(size=(rows, 12)))
    summed = RecordingMoments.of(given)
    found = bootstrap_frechet(summed, reference, covariance, seed=5, draws=10, level=0.999999)
    drawn = np.random.default_rng(5).multinomial(6, np.full(6, 1 / 6), size=10)
    repeated = [np.concatenate([np.tile(part, (k, 1)) for part, k in zip(given, ks, strict=True)]) for ks in drawn]
    wanted = [frechet_distance(moments(part), reference, covariance) for part in repeated]
    assert found.value == pytest.approx(frechet_distance(moments(np.concatenate(given)), reference, covariance))
    assert found.low == pytest.approx(min(wanted), rel=1e-5)
    assert found.high == pytest.approx(max(wanted), rel=1e-5)
    assert found.bias == pytest.approx(np.mean(wanted) - found.value, rel=1e-6)


def test_the_interval_of_a_distance_covers_the_truth():
    """N(1, I) against N(0, I) in two dimensions, 400 clips: true distance 2, and the bias is small."""
    random, covered, trials = np.random.default_rng(0), 0, 100
    reference = Moments(10**9, np.zeros(2), np.eye(2) * 1e9)
    for trial in range(trials):
        summed = RecordingMoments.of(random.normal(size=(400, 1, 2)) + 1)
        found = bootstrap_frechet(summed, reference, "unbiased", seed=trial, draws=100)
        covered += found.low <= 2 <= found.high
    assert 0.87 <= covered / trials <= 0.99


def test_with_few_clips_the_centred_interval_holds_the_value_and_is_not_too_narrow():
    """120 clips in 30 dimensions: all draws lie above; distances of new clips vary less, about half as much."""
    random = np.random.default_rng(0)
    reference = Moments(10**9, np.zeros(30), np.eye(30) * 1e9)
    others = [frechet_distance(moments(random.normal(size=(120, 30))), reference, "unbiased") for _ in range(300)]
    found = bootstrap_frechet(
        RecordingMoments.of(random.normal(size=(120, 1, 30))), reference, "unbiased", 0, draws=300
    )
    assert found.low > found.value
    low, high = found.centred
    assert low < found.value < high
    assert 3.92 * np.std(others) < high - low < 3 * 3.92 * np.std(others)


def test_both_sides_of_a_recording_are_drawn_together():
    one, other = (clips(seed, (2, 1, 3, 1, 2), 4) for seed in (0, 1))
    first, second = map(RecordingMoments.of, (one, other))
    found = bootstrap_frechet(first, second, "unbiased", seed=5, draws=10, level=0.999999)
    wanted = []
    for weights in np.random.default_rng(5).multinomial(5, np.full(5, 1 / 5), size=10):
        drawn = [moments(np.concatenate(np.repeat(np.array(side, object), weights).tolist())) for side in (one, other)]
        wanted.append(frechet_distance(drawn[0], drawn[1], "unbiased"))
    assert (found.low, found.high) == (pytest.approx(min(wanted), rel=1e-5), pytest.approx(max(wanted), rel=1e-5))
    same = bootstrap_frechet(first, first, "unbiased", seed=5, draws=20)
    assert (same.low, same.high) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))


def test_equal_seeds_give_equal_intervals():
    summed, reference = RecordingMoments.of(clips(0, (1, 2, 3), 2)), moments(np.eye(2))
    drawn = [bootstrap_frechet(summed, reference, "biased", seed, draws=20) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_cannot_be_drawn_from_is_refused():
    summed = RecordingMoments.of(clips(0, (1, 2), 3))
    for message, wrong in (
        ("1 recordings", lambda: RecordingMoments.of(clips(0, (4,), 3))),
        ("recording number 1 has 2 dimensions", lambda: RecordingMoments.of([np.ones((1, 3)), np.ones((1, 2))])),
        ("recording number 0: .*not finite", lambda: RecordingMoments.of([np.full((1, 3), np.inf)])),
        ("one dimension", lambda: bootstrap_frechet(summed, moments(np.eye(4)), "biased", seed=0)),
        (
            "2 recordings on one side, 3 on the other",
            lambda: bootstrap_frechet(summed, RecordingMoments.of(clips(0, (1, 2, 1), 3)), "biased", seed=0),
        ),
        ("9 draws", lambda: bootstrap_frechet(summed, moments(np.eye(3)), "biased", seed=0, draws=9)),
        ("level 95", lambda: bootstrap_mean(np.ones(2), np.ones(2), seed=0, level=95)),
        ("at least 2 recordings", lambda: bootstrap_mean(np.ones(1), np.ones(1), seed=0)),
        ("at least 2 recordings", lambda: bootstrap_mean(np.ones(3), np.ones(2), seed=0)),
    ):
        with pytest.raises(MetricError, match=message):
            wrong()
    for sums, counts in (([1, np.nan], [1, 1]), ([1, 1], [1, 0])):
        with pytest.raises(MetricError, match="finite and above 0"):
            bootstrap_mean(np.array(sums), np.array(counts), seed=0)


def test_the_interval_of_a_median_covers_the_truth_and_draws_recordings():
    """Recordings of one to three alike values of a skewed distribution, whose median is ln 2."""
    random, covered, trials = np.random.default_rng(0), 0, 200
    for trial in range(trials):
        recordings = [np.repeat(random.exponential(), random.integers(1, 4)) for _ in range(80)]
        found = bootstrap_median(recordings, seed=trial, draws=200)
        assert found.value == pytest.approx(np.median(np.concatenate(recordings)))
        covered += found.low <= np.log(2) <= found.high
    assert 0.88 <= covered / trials <= 0.99
    with pytest.raises(MetricError, match="of at least 2 recordings"):
        bootstrap_median([np.ones(3)], seed=0)
    with pytest.raises(MetricError, match="give finite values"):
        bootstrap_median([np.ones(3), np.array([np.nan])], seed=0)
