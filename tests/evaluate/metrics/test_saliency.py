"""S_KL equals values computed by hand; targets without density are listed, invalid maps refused."""

from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import MetricError
from con360av_jax.evaluate.features import FeatureCard, FeatureSet, write_features
from con360av_jax.evaluate.metrics.saliency import EPSILON, Excluded, Weighting, compare_saliency, frame_divergence
from con360av_jax.sphere.geometry import directions, solid_angle_weights


def card(**changes) -> FeatureCard:
    made = {"kind": "saliency", "model": "m", "weights_sha256": "0", "settings": {"size": 8}, "packages": {}}
    return FeatureCard(**(made | changes))


def stored(folder: Path, maps: dict[str, np.ndarray], **changes) -> FeatureSet:
    clips = ((name, f"{folder.name}/{name}.mp4", rows.astype(np.float32)) for name, rows in maps.items())
    return write_features(folder, card(**changes), clips)


def test_two_pixels_by_hand():
    generated, target = np.array([[[3.0, 1.0]]]), np.array([[[10.0, 10.0]]])
    wanted = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert frame_divergence(generated, target)[0] == pytest.approx(wanted, rel=1e-12)
    backwards = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    assert frame_divergence(target, generated)[0] == pytest.approx(backwards, rel=1e-12)


def test_a_shifted_map_has_the_divergence_of_its_profile():
    """exp(-x^2 / 2 s^2) moved by d: log(p / q) = (2 x d - d^2) / 2 s^2, where p has the mean x = d: d^2 / 2 s^2."""
    x, spread, moved = np.arange(-60, 61), 6.0, 5
    target = np.exp(-np.square(x) / (2 * spread**2))
    generated = np.exp(-np.square(x - moved) / (2 * spread**2))
    found = frame_divergence(generated[None, None], target[None, None], epsilon=1e-300)
    assert found[0] == pytest.approx(moved**2 / (2 * spread**2), rel=1e-9)


def test_equal_maps_differ_by_nothing_at_any_scale():
    maps = np.random.default_rng(0).random((3, 4, 8))
    maps[0, 0] = 0
    np.testing.assert_allclose(frame_divergence(maps, 7 * maps), 0, atol=1e-14)


def test_saliency_where_the_target_has_none_counts_with_epsilon():
    generated, target = np.array([[[1.0, 0.0]]]), np.array([[[0.0, 1.0]]])
    assert frame_divergence(generated, target)[0] == pytest.approx(-np.log(EPSILON), rel=1e-12)
    assert frame_divergence(generated, target, epsilon=1e-7)[0] == pytest.approx(-np.log(1e-7), rel=1e-6)


def test_panoramas_are_compared_on_the_sphere():
    """Densities proportional to exp(a . d) on the sphere: KL of two von Mises-Fisher densities, in closed form."""
    height, width, concentration = 128, 256, 3.0
    generated, target = (np.exp(concentration * directions(height, width)[..., axis])[None] for axis in (1, 2))
    mean = 1 / np.tanh(concentration) - 1 / concentration
    found = frame_divergence(generated, target, weighting="solid_angle")[0]
    assert found == pytest.approx(concentration * mean, rel=1e-3)
    assert abs(frame_divergence(generated, target)[0] - concentration * mean) > 0.1
    area = solid_angle_weights(height, width)
    assert found == pytest.approx(frame_divergence(generated * area, target * area)[0], rel=1e-9)


@pytest.mark.parametrize("weighting", ["pixel", "solid_angle"])
def test_a_generated_map_of_zeros_is_a_uniform_density(weighting: Weighting):
    """No attention anywhere is no attention for what the target shows: the divergence of a constant map."""
    target = np.random.default_rng(0).random((1, 4, 8)) + 0.1
    zeros, ones = np.zeros((1, 4, 8)), np.ones((1, 4, 8))
    found = frame_divergence(zeros, target, weighting)[0]
    area = solid_angle_weights(4, 8) if weighting == "solid_angle" else np.ones((4, 8))
    p = area / area.sum() * np.ones((4, 8))
    q = area * target[0] / (area * target[0]).sum()
    assert found == pytest.approx((p * np.log(p / q)).sum(), rel=1e-9)
    assert found == frame_divergence(ones, target, weighting)[0] > frame_divergence(target, target, weighting)[0]


def test_clips_are_paired_by_name_and_black_targets_named(tmp_path: Path):
    random = np.random.default_rng(0)
    maps = {name: random.random((3, 4, 8)).astype(np.float32) for name in "abc"}
    targets = {name: random.random((3, 4, 8)).astype(np.float32) for name in "cba"}
    maps["b"][1] = 0
    targets["b"][1:] = 0
    targets["c"][:] = 0
    maps["a"][2] = 0
    found = compare_saliency(stored(tmp_path / "made", maps), stored(tmp_path / "real", targets))
    by_frame = np.concatenate(
        [frame_divergence(maps["a"], targets["a"]), frame_divergence(maps["b"][:1], targets["b"][:1])]
    )
    assert found.value == pytest.approx(by_frame.mean(), rel=1e-12)
    assert found.clips == ("a", "b")
    np.testing.assert_array_equal(found.frames, [3, 1])
    assert found.sums.sum() == pytest.approx(by_frame.sum())
    assert found.excluded == tuple(
        Excluded(clip=clip, frame=frame) for clip, frame in (("b", 1), ("b", 2), ("c", 0), ("c", 1), ("c", 2))
    )


def test_sets_that_do_not_belong_together_are_refused(tmp_path: Path):
    maps = np.ones((2, 2, 4))
    one = stored(tmp_path / "one", {"a": maps, "b": maps})
    with pytest.raises(MetricError, match=r"one lacks c \(1 clips\); .*other lacks b \(1 clips\)"):
        compare_saliency(one, stored(tmp_path / "other", {"a": maps, "c": maps}))
    with pytest.raises(MetricError, match="settings.size: 8 -> 9"):
        compare_saliency(one, stored(tmp_path / "sized", {"a": maps, "b": maps}, settings={"size": 9}))
    with pytest.raises(MetricError, match=r"b has generated maps of \(2, 2, 4\), targets of \(1, 2, 4\)"):
        compare_saliency(one, stored(tmp_path / "short", {"a": maps, "b": maps[:1]}))
    with pytest.raises(MetricError, match="clip b: the target map of frame 1 is negative"):
        negative = np.concatenate([maps[:1], maps[:1] - 2])
        compare_saliency(one, stored(tmp_path / "negative", {"a": maps, "b": negative}))
    with pytest.raises(MetricError, match="all 4 target maps are all zero"):
        black = stored(tmp_path / "black", {"a": 0 * maps, "b": 0 * maps})
        compare_saliency(one, black)
    with pytest.raises(MetricError, match="needs saliency maps"):
        rows = np.ones((2, 4), np.float32)
        sounds = write_features(tmp_path / "sound", card(kind="sound"), [("a", "a.wav", rows)])
        compare_saliency(sounds, sounds)


@pytest.mark.parametrize(
    ("generated", "message"),
    [
        (np.full((1, 2, 4), np.nan), "not finite"),
        (-np.ones((1, 2, 4)), "negative"),
        (np.ones((2, 4)), r"give \(frame, height, width\)"),
        (np.ones((1, 2, 5)), "same shape"),
    ],
)
def test_maps_without_a_density_are_refused(generated: np.ndarray, message: str):
    with pytest.raises(MetricError, match=message):
        frame_divergence(generated, np.ones((1, 2, 4)))


def test_a_target_without_density_is_refused():
    with pytest.raises(MetricError, match="the target map of frame 0 is all zero"):
        frame_divergence(np.ones((1, 2, 4)), np.zeros((1, 2, 4)))


def test_epsilon_is_above_zero():
    with pytest.raises(MetricError, match="above 0"):
        frame_divergence(np.ones((1, 2, 4)), np.ones((1, 2, 4)), epsilon=0.0)
