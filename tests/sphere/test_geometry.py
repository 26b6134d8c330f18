"""The sphere against analytic truths: rotations, panorama sampling, perspective views, cube faces and solid angles."""

import numpy as np
import pytest

from con360av_jax.errors import GeometryError
from con360av_jax.sphere.geometry import (
    Places,
    angles_from_direction,
    direction_from_angles,
    directions,
    minmax,
    render_view,
    rotation,
    sample_erp,
    solid_angle_weights,
    view_directions,
)

# Bilinear interpolation is off by at most h^2/8 (|f_lonlon| + |f_latlat|). At 512x1024 h = 2 pi / 1024, so h^2/8 is
# 4.7e-6; each second derivative of `smooth` stays below 9 (degree 3 times its amplitude of 1): 8.5e-5, plus float32.
TOLERANCE = 9e-5

# yaw, pitch, roll in degrees: straight ahead, across the seam, at both poles and near them, leaning, upside down.
LOOKS = [
    (0, 0, 0),
    (33, -12, 0),
    (180, 0, 0),
    (-179, 20, 30),
    (0, 90, 0),
    (75, 90, -40),
    (0, -90, 0),
    (-130, -90, 110),
    (171, 84, 15),
    (-90, -70, 180),
    (57, 41, -97),
]


def smooth(ray: np.ndarray) -> np.ndarray:
    """Three spherical harmonics of degree 1 to 3, each between -1 and 1, on unit vectors (..., 3)."""
    x, y, z = np.moveaxis(ray, -1, 0)
    return np.stack([0.6 * x - 0.8 * y, 2 * x * z, (5 * y**3 - 3 * y) / 2], axis=-1)


def smooth_panorama(height: int) -> np.ndarray:
    longitude = ((np.arange(2 * height) + 0.5) / (2 * height) - 0.5) * 2 * np.pi
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    lon, lat = np.meshgrid(longitude, latitude)
    return smooth(np.stack([np.cos(lat) * np.sin(lon), np.sin(lat), np.cos(lat) * np.cos(lon)], axis=-1))


def camera_axes(yaw: float, pitch: float, roll: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right, up and forward of the camera, without rotation matrices."""
    forward = np.array([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)])
    level = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    upright = np.cross(forward, level)
    return np.cos(roll) * level - np.sin(roll) * upright, np.sin(roll) * level + np.cos(roll) * upright, forward


def view_truth(yaw: float, pitch: float, roll: float, fov: tuple[float, float], height: int, width: int) -> np.ndarray:
    """`smooth` at the pixel centres of a view, pixel by pixel along the camera's axes."""
    right, up, forward = camera_axes(yaw, pitch, roll)
    rays = np.zeros((height, width, 3))
    for i in range(height):
        for j in range(width):
            x = (2 * j + 1 - width) / width * np.tan(fov[0] / 2)
            y = (height - 1 - 2 * i) / height * np.tan(fov[1] / 2)
            ray = x * right + y * up + forward
            rays[i, j] = ray / np.linalg.norm(ray)
    return smooth(rays)


@pytest.fixture(scope="module")
def panorama() -> np.ndarray:
    return smooth_panorama(512).astype(np.float32)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)


def test_directions_and_angles_are_each_others_inverse():
    yaw, pitch = np.random.default_rng(0).uniform([[-np.pi], [-np.pi / 2]], [[np.pi], [np.pi / 2]], (2, 500))
    again = angles_from_direction(7.5 * direction_from_angles(yaw, pitch))
    np.testing.assert_allclose(again, (yaw, pitch), rtol=0, atol=1e-12)


def test_yaw_turns_right_and_pitch_turns_up():
    np.testing.assert_allclose(direction_from_angles(0.0, 0.0), [0, 0, 1], atol=1e-15)
    np.testing.assert_allclose(direction_from_angles(np.pi / 2, 0.0), [1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(direction_from_angles(1.0, np.pi / 2), [0, 1, 0], atol=1e-15)


def test_panorama_pixels_are_centres_with_the_front_in_the_middle():
    rays = directions(4, 8)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1, atol=1e-15)
    yaw, pitch = angles_from_direction(rays)
    np.testing.assert_allclose(yaw[2], np.deg2rad(np.arange(-157.5, 180, 45)), atol=1e-12)
    np.testing.assert_allclose(pitch[:, 5], np.deg2rad([67.5, 22.5, -22.5, -67.5]), atol=1e-12)


@pytest.mark.parametrize("look", LOOKS)
def test_rotation_columns_are_the_cameras_axes(look: tuple[float, float, float]):
    matrix = rotation(*np.deg2rad(look))
    np.testing.assert_allclose(matrix, np.stack(camera_axes(*np.deg2rad(look)), axis=1), atol=1e-12)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)


def test_positive_roll_lowers_the_right_side():
    assert rotation(0.4, 0.2, 0.3)[1, 0] < 0 < rotation(0.4, 0.2, -0.3)[1, 0]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("fov", [(90, 90), (120, 50)])
def test_a_view_of_an_analytic_function_is_that_function(
    panorama: np.ndarray, look: tuple[float, float, float], fov: tuple[float, float]
):
    yaw, pitch, roll = (float(angle) for angle in np.deg2rad(look))
    horizontal, vertical = np.deg2rad(fov)
    view = render_view(panorama, yaw, pitch, horizontal, vertical, 40, 56, roll)
    truth = view_truth(yaw, pitch, roll, (horizontal, vertical), 40, 56)
    np.testing.assert_allclose(view, truth, rtol=0, atol=TOLERANCE)


def test_the_whole_sphere_is_sampled_without_a_seam(panorama: np.ndarray):
    height, width = panorama.shape[:2]
    lon = np.concatenate([np.linspace(-np.pi, np.pi, 400), np.pi - np.linspace(0, 4 * np.pi / width, 50)])
    lat = np.concatenate([np.linspace(-np.pi / 2, np.pi / 2, 90), np.pi / 2 - np.linspace(0, 2 * np.pi / height, 30)])
    lat = np.concatenate([lat, -lat])
    rays = direction_from_angles(lon[None], lat[:, None])
    np.testing.assert_allclose(sample_erp(panorama, rays), smooth(rays), rtol=0, atol=TOLERANCE)


def test_the_error_of_linear_sampling_falls_fourfold_when_the_resolution_doubles():
    rays = view_directions(3.0, 1.4, 2.0, 2.0, 64, 64, 0.5)
    truth = smooth(rays / np.linalg.norm(rays, axis=-1, keepdims=True))
    panoramas = (smooth_panorama(height).astype(np.float32) for height in (32, 64, 128, 256))
    errors = [np.sqrt(np.mean((sample_erp(panorama, rays) - truth) ** 2)) for panorama in panoramas]
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    np.testing.assert_allclose(ratios, 4, rtol=0.1)


def test_cubic_sampling_is_within_a_twentieth_of_the_difference_between_neighbours(panorama: np.ndarray):
    rays = view_directions(np.pi, 1.5, 2.0, 2.0, 64, 64)
    truth = smooth(rays / np.linalg.norm(rays, axis=-1, keepdims=True))
    # OpenCV's kernel (a = -0.75) misses a slope by up to 0.048 of a pixel, on either axis; the slope of `smooth` is
    # at most 6 per radian, so 6 * 2 pi / 1024 per pixel.
    bound = 2 * 0.048 * 6 * 2 * np.pi / 1024
    np.testing.assert_allclose(sample_erp(panorama, rays, "cubic"), truth, rtol=0, atol=bound)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_sampling_at_pixel_centres_gives_the_pixels_back(noise: np.ndarray, interpolation):
    np.testing.assert_array_equal(sample_erp(noise, directions(32, 64), interpolation), noise)


@pytest.mark.parametrize(("pole", "row"), [(np.pi / 2, 0), (-np.pi / 2, -1)])
def test_at_a_pole_each_pixel_meets_the_one_across(noise: np.ndarray, pole: float, row: int):
    centres = ((np.arange(64) + 0.5) / 64 - 0.5) * 2 * np.pi
    almost = direction_from_angles(centres, np.full(64, pole * (1 - 1e-9)))
    pixels = noise[row].astype(np.float32)
    opposite = pixels[(np.arange(64) + 32) % 64]
    found = sample_erp(noise.astype(np.float32), almost)
    np.testing.assert_allclose(found, (pixels + opposite) / 2, rtol=0, atol=1e-2)  # of 255: positions are float32


@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_views_keep_dtype_and_channels(dtype, channels: tuple[int, ...]):
    panorama = np.random.default_rng(1).integers(0, 256, (32, 64, *channels)).astype(dtype)
    view = render_view(panorama, 3.1, 1.2, 1.5, 1.0, 10, 14)
    assert view.shape == (10, 14, *channels) and view.dtype == dtype
    exact = render_view(panorama.astype(np.float32), 3.1, 1.2, 1.5, 1.0, 10, 14)
    # Integers are rounded; OpenCV's own weights may turn a half the other way.
    np.testing.assert_allclose(view, exact, rtol=0, atol=0.501 if np.issubdtype(dtype, np.integer) else 0)


def test_turning_the_panorama_and_the_camera_together_changes_nothing(noise: np.ndarray):
    columns = 11
    turn = columns * 2 * np.pi / noise.shape[1]
    before = render_view(noise.astype(np.float32), 2.9, -0.8, 1.2, 1.2, 24, 24, 0.3)
    after = render_view(np.roll(noise, columns, axis=1).astype(np.float32), 2.9 + turn, -0.8, 1.2, 1.2, 24, 24, 0.3)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-2)  # of 255: positions are float32


def test_many_and_no_directions_are_sampled(noise: np.ndarray):
    rays = np.random.default_rng(2).normal(size=(40_001, 3))
    many = sample_erp(noise, rays)
    assert many.shape == (40_001, 3) and sample_erp(noise, rays[:0]).shape == (0, 3)
    np.testing.assert_array_equal(sample_erp(noise, rays[39_999]), many[39_999])


def test_solid_angles_cover_the_sphere_and_integrate_harmonics():
    weights, (x, y, z) = solid_angle_weights(90, 180), np.moveaxis(directions(90, 180), -1, 0)
    assert weights.shape == (90, 180) and weights.sum() == pytest.approx(4 * np.pi, rel=1e-12)
    for square in (x * x, y * y, z * z):  # the midpoint rule is off by about h^2 = 1e-3
        assert (weights * square).sum() == pytest.approx(4 * np.pi / 3, rel=1e-3)
    assert abs((weights * x * y).sum()) < 1e-12


def test_minmax_stretches_all_frames_together():
    maps = np.array([[[1, 2], [3, 4]], [[4, 5], [6, 9]]])
    np.testing.assert_array_equal(minmax(maps), ((maps - 1) / 8).astype(np.float32))
    flat = minmax(np.full((2, 3, 4), 7.0))
    assert flat.dtype == np.float32 and not flat.any()


@pytest.mark.parametrize("fov", [0.0, -1.0, np.pi, float("nan")])
def test_a_field_of_view_that_no_camera_has_is_refused(noise: np.ndarray, fov: float):
    with pytest.raises(GeometryError, match="field of view"):
        render_view(noise, 0.0, 0.0, fov, 1.0, 8, 8)


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((8, 15, 3), np.uint8, "even width"),
        ((8, 16, 5), np.uint8, "1 to 4 channels"),
        ((8,), np.uint8, r"shape \(8,\)"),
        ((8, 16), np.float64, "float64"),
        ((8, 16), bool, "bool"),
        ((2, 40_000), np.uint8, "40000x2"),
    ],
)
def test_a_panorama_that_cannot_be_sampled_is_refused(shape: tuple[int, ...], dtype, words: str):
    with pytest.raises(GeometryError, match=words):
        sample_erp(np.zeros(shape, dtype), np.array([0.0, 0.0, 1.0]))


def test_places_serve_many_panoramas_of_their_size_and_refuse_another():
    noise = np.random.default_rng(8).integers(0, 256, (3, 16, 32, 3), dtype=np.uint8)
    rays = view_directions(0.4, -0.2, 1.2, 1.0, 12, 14, 0.3)
    places = Places.seen_along(rays, 16, 32)
    for panorama in noise:
        np.testing.assert_array_equal(places.sample(panorama), sample_erp(panorama, rays))
    with pytest.raises(GeometryError, match="give one of 32x16 pixels"):
        places.sample(np.zeros((32, 64, 3), np.uint8))
