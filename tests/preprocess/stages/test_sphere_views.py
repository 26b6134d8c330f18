"""The sphere's part of preprocessing: views and blur, contrast saliency, wrap-aware regions, viewpoints, rendering."""

import numpy as np
import pytest

from con360av_jax.sphere.contrast import contrast_saliency
from con360av_jax.sphere.cube import blur, to_panorama, to_views
from con360av_jax.sphere.geometry import direction_from_angles, directions
from preprocess.stages.regions import angle_between, apart, components, find_regions, summits
from preprocess.stages.viewpoints import ViewpointSettings, find_viewpoints
from preprocess.stages.views import oversampling, render_tracks

LIMITS = (float(np.radians(45)), float(np.radians(100)))


def direction(yaw: float, pitch: float) -> np.ndarray:
    return np.asarray(direction_from_angles(np.radians(yaw), np.radians(pitch)), np.float64)


def disc(yaw: float, pitch: float, radius: float, height: int = 64) -> np.ndarray:
    """True within `radius` degrees of a direction given in degrees."""
    return angle_between(directions(height, 2 * height), direction(yaw, pitch)) < np.radians(radius)


def degrees_between(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.degrees(angle_between(first, second)))


def scene(yaws: np.ndarray, pitch: float, height: int = 128) -> np.ndarray:
    """Frames of a textured grey panorama with an orange disc at the given longitudes, one per frame."""
    noise = np.random.default_rng(0).normal(110, 6, (height, 2 * height, 1))
    frames = []
    for yaw in yaws:
        frame = np.repeat(noise, 3, axis=2)
        frame[disc(yaw, pitch, 9, height)] = (250, 170, 30)
        frames.append(np.clip(frame, 0, 255).astype(np.uint8))
    return np.stack(frames)


@pytest.mark.parametrize(("yaw", "pitch"), [(180, 0), (-179, 40), (0, 90), (30, -88), (179, -70)])
def test_a_blob_over_the_seam_or_a_pole_is_one_component_with_its_own_centre(yaw: float, pitch: float):
    inside = disc(yaw, pitch, 15)
    assert components(inside).max() == 1
    (region,) = find_regions(inside.astype(float), 1, LIMITS)
    assert degrees_between(region.direction, direction(yaw, pitch)) < 1.0


def test_components_touch_by_corners_over_the_seam_and_not_without_touching():
    diagonal = np.zeros((16, 32), bool)
    diagonal[5, 0] = diagonal[6, -1] = True
    assert components(diagonal).max() == 1
    separate = np.zeros((16, 32), bool)
    separate[5, 0] = separate[7, -1] = separate[10, 16] = True
    assert components(separate).max() == 3


@pytest.mark.parametrize("radius", [10, 30, 60])
def test_a_regions_field_of_view_is_its_extent_within_the_limits(radius: float):
    (region,) = find_regions(disc(100, 20, radius).astype(float), 1, LIMITS)
    assert np.degrees(region.field_of_view) == pytest.approx(np.clip(2 * radius, 45, 100), abs=6)


@pytest.mark.parametrize(
    "saliency",
    [np.zeros((32, 64)), np.ones((32, 64)), disc(170, 5, 12, 32) * 1.0, np.abs(directions(32, 64)[..., 1]) < 0.2],
    ids=["nothing", "everything", "one blob", "a ring around the viewer"],
)
def test_there_are_always_as_many_distinct_regions_as_asked_for(saliency: np.ndarray):
    regions = find_regions(saliency.astype(float), 4, LIMITS)
    assert len(regions) == 4
    for number, region in enumerate(regions):
        assert np.isclose(np.linalg.norm(region.direction), 1)
        assert all(apart(region, other) for other in regions[:number])


def test_more_regions_than_the_sphere_has_room_for_still_come_in_the_number_asked_for():
    assert len(find_regions(np.zeros((16, 32)), 60, LIMITS)) == 60


def test_the_heavier_of_two_blobs_comes_first():
    saliency = disc(-90, 0, 12) * 1.0 + disc(90, 0, 25) * 1.0
    first, second = find_regions(saliency, 2, LIMITS)
    assert degrees_between(first.direction, direction(90, 0)) < 1
    assert degrees_between(second.direction, direction(-90, 0)) < 1


def test_a_blob_on_a_salient_ridge_is_a_region_of_its_own():
    rays = directions(64, 128)
    blob = np.exp((rays @ direction(100, 18) - 1) / np.radians(8) ** 2)
    ridge = 0.45 * np.exp(-(np.arcsin(rays[..., 1]) ** 2) / (2 * np.radians(6) ** 2)) * (rays[..., 0] > -0.2)
    assert components(blob + ridge > 0.4).max() == 1
    regions = find_regions(blob + ridge, 3, LIMITS)
    assert min(degrees_between(region.direction, direction(100, 18)) for region in regions) < 4


def test_a_lower_peak_on_the_same_hill_is_no_region_but_one_beyond_a_valley_is():
    rays = directions(64, 128)

    def two_hills(apart: float) -> int:
        hills = [np.exp((rays @ direction(yaw, 0) - 1) / np.radians(8) ** 2) for yaw in (0.0, apart)]
        return len(list(summits(hills[0] + 0.9 * hills[1], 0.05)))

    assert two_hills(18) == 1
    assert two_hills(40) == 2


def test_views_and_back_give_a_smooth_function_of_direction_everywhere():
    def smooth(rays: np.ndarray) -> np.ndarray:
        return 2 + rays @ np.array([0.3, -0.8, 0.5]) + rays[..., 0] * rays[..., 1]

    back = to_panorama(to_views(smooth(directions(128, 256)).astype(np.float32)), 64, 128)
    np.testing.assert_allclose(back, smooth(directions(64, 128)), atol=5e-3)


def test_blur_keeps_constants_and_is_a_gaussian_of_the_same_angle_at_pole_and_horizon():
    sigma = np.radians(12.0)
    np.testing.assert_allclose(blur(np.full((1, 32, 64), 0.7), sigma), 0.7, atol=1e-12)
    rays = directions(64, 128)
    for row, column in ((32, 127), (0, 5), (50, 64)):
        point = np.zeros((1, 64, 128))
        point[0, row, column] = 1
        blurred = blur(point, sigma)[0]
        wanted = np.exp(-(angle_between(rays, rays[row, column]) ** 2) / (2 * sigma**2))
        np.testing.assert_allclose(blurred / blurred[row, column], wanted, atol=0.02)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_contrast_saliency_rolls_with_the_panorama(quarters: int):
    frames = scene(np.linspace(20, 40, 4), 25)
    frames[:, 80:120, 30:90] //= 2
    still = contrast_saliency(frames, 8, 32, 64)
    rolled = contrast_saliency(np.roll(frames, quarters * 64, axis=2), 8, 32, 64)
    np.testing.assert_allclose(rolled, np.roll(still, quarters * 16, axis=2), atol=2e-3)


def test_contrast_saliency_spans_zero_to_one_and_a_uniform_panorama_has_no_preferred_longitude():
    flat = contrast_saliency(np.full((3, 64, 128, 3), 90, np.uint8), 8, 16, 32)
    np.testing.assert_allclose(flat, np.broadcast_to(flat[:, :, :1], flat.shape), atol=1e-5)
    saliency = contrast_saliency(scene(np.zeros(3), 0), 8, 16, 32)
    assert saliency.dtype == np.float32
    assert (saliency.min(), saliency.max()) == (0, 1)


@pytest.mark.parametrize(("start", "pitch"), [(-60, 10), (165, -20)])
def test_a_bright_moving_blob_is_found_and_followed(start: float, pitch: float):
    yaws = start + np.linspace(0, 40, 16)
    saliency = contrast_saliency(scene(yaws, pitch), 8, 32, 64)
    still = find_viewpoints(saliency, 8, ViewpointSettings(count=2))[0].track
    assert np.ptp(still, axis=0).max() == 0
    assert degrees_between(direction(*np.degrees(still[0, :2])), direction(start + 20, pitch)) < 6
    moving = find_viewpoints(saliency, 8, ViewpointSettings(count=2, moving=True, smoothing_seconds=0.1))[0].track
    for yaw, viewpoint in zip(yaws, moving, strict=True):
        assert degrees_between(direction(*np.degrees(viewpoint[:2])), direction(yaw, pitch)) < 6


def test_moving_viewpoints_are_distinct_smooth_tracks_of_the_asked_number():
    rng = np.random.default_rng(1)
    saliency = blur(rng.uniform(size=(12, 32, 64)) ** 8, np.radians(6.0))
    found = find_viewpoints(saliency, 8, ViewpointSettings(count=3, moving=True))
    tracks = [viewpoint.track for viewpoint in found]
    assert len(tracks) == 3
    for track in tracks:
        assert track.shape == (12, 4)
        assert track.dtype == np.float32
        rays = direction_from_angles(track[:, 0].astype(float), track[:, 1].astype(float))
        steps = [degrees_between(one, other) for one, other in zip(rays[:-1], rays[1:], strict=True)]
        assert max(steps) < 30
        assert (track[:, 2] >= LIMITS[0] - 1e-6).all()
        assert (track[:, 2] <= LIMITS[1] + 1e-6).all()


@pytest.mark.parametrize("size", [16, 48])
def test_a_track_that_stands_still_for_a_while_shows_what_each_frame_alone_would(size: int):
    frames = np.random.default_rng(3).integers(0, 256, (4, 64, 128, 3), dtype=np.uint8)
    track = np.radians(np.array([[170.0, 20.0, 90.0, 60.0]] * 2 + [[-170.0, 25.0, 95.0, 60.0]] * 2))
    alone = [render_tracks(frames[n : n + 1], [track[n : n + 1]], size, size)[0] for n in range(4)]
    turned = track + np.array([0.5, 0, 0, 0])
    together = render_tracks(frames, [track, turned], size, size)
    np.testing.assert_array_equal(together[0], np.concatenate(alone))
    np.testing.assert_array_equal(together[1], render_tracks(frames, [turned], size, size)[0])


def test_a_view_of_a_much_finer_panorama_shows_its_mean_and_not_its_grain():
    grain = np.random.default_rng(2).integers(0, 2, (1, 256, 512, 1), dtype=np.uint8) * 255
    track = np.radians(np.array([[30.0, 20.0, 90.0, 90.0]]))
    (views,) = render_tracks(np.repeat(grain, 3, axis=-1), [track], 16, 16)
    assert views.shape == (1, 16, 16, 3)
    assert views.std() < 30
    assert abs(views.mean() - 127.5) < 10


def test_oversampling_follows_the_ratio_of_the_two_resolutions():
    assert oversampling(128, np.pi / 2, 256) == 1
    assert oversampling(512, np.pi / 2, 64) == 5
