"""A view's footprint on the panorama, its solid angle and its signed distance map (BASD) against second statements."""

import numpy as np
import pytest

from con360av_jax.errors import GeometryError
from con360av_jax.sphere import geometry
from con360av_jax.sphere.geometry import (
    basd,
    direction_from_angles,
    directions,
    footprint,
    signed_distance,
    solid_angle_weights,
    view_directions,
)

# yaw, pitch, roll, horizontal and vertical field of view in degrees: plain, across the seam, over both poles, wide.
VIEWS = [
    (10, 5, 0, 90, 90),
    (178, -20, 25, 100, 60),
    (40, 88, 0, 80, 80),
    (-120, -90, 70, 70, 120),
    (-60, 30, -100, 160, 140),
]


def outline_distance(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel's centre to the nearest pixel square of the other kind, one pair at a time."""
    height, width = mask.shape
    distance = np.full(mask.shape, np.inf)
    for row, column in np.ndindex(height, width):
        for other_row, other_column in np.argwhere(mask != mask[row, column]):
            across = abs(column - other_column)
            across = max(min(across, width - across) - 0.5, 0)
            along = max(abs(row - other_row) - 0.5, 0)
            distance[row, column] = min(distance[row, column], np.hypot(across, along))
    return np.where(mask, distance, -distance)


@pytest.mark.parametrize("view", VIEWS)
def test_a_footprint_is_what_lies_between_the_four_planes_through_a_views_sides(view: tuple[float, ...]):
    yaw, pitch, roll, horizontal, vertical = np.deg2rad(view)
    corners = view_directions(yaw, pitch, horizontal, vertical, 2, 2, roll)
    middle = corners.sum((0, 1))
    # The corner pixels' centres lie halfway between the middle and the corners: stretch them out to the corners.
    top_left, top_right, bottom_right, bottom_left = (
        2 * corners[row, column] - middle / 4 for row, column in ((0, 0), (0, 1), (1, 1), (1, 0))
    )
    sides = [(top_left, top_right), (top_right, bottom_right), (bottom_right, bottom_left), (bottom_left, top_left)]
    rays = directions(60, 120)
    inside = np.ones((60, 120), bool)
    for start, end in sides:
        normal = np.cross(start, end)
        inside &= (rays @ normal) * (middle @ normal) > 0
    np.testing.assert_array_equal(footprint(yaw, pitch, horizontal, vertical, 60, 120, roll), inside)


@pytest.mark.parametrize("view", VIEWS)
def test_the_solid_angle_of_a_footprint_converges_to_the_closed_form(view: tuple[float, ...]):
    yaw, pitch, roll, horizontal, vertical = np.deg2rad(view)
    truth = 4 * np.arcsin(np.sin(horizontal / 2) * np.sin(vertical / 2))
    coarse, fine = (
        solid_angle_weights(height, 2 * height)[footprint(yaw, pitch, horizontal, vertical, height, 2 * height, roll)]
        for height in (24, 600)
    )
    # Only pixels on the outline can be wrong: at most 2 * outline length * pixel size, here 2 * 8 rad * pi / 600,
    # and their errors cancel on average.
    assert fine.sum() == pytest.approx(truth, abs=2e-3 * truth + 2e-3)
    assert abs(fine.sum() - truth) < max(abs(coarse.sum() - truth), 2e-3)


def test_a_view_of_ninety_degrees_covers_a_quarter_of_the_horizon():
    inside = footprint(0.0, 0.0, np.pi / 2, np.pi / 2, 32, 64)
    assert np.flatnonzero(inside[16]).tolist() == list(range(24, 40))
    assert np.flatnonzero(footprint(np.pi, 0.0, np.pi / 2, np.pi / 2, 32, 64)[16]).tolist() == [
        *range(8),
        *range(56, 64),
    ]


def test_a_view_of_a_pole_covers_the_whole_row_around_it():
    inside = footprint(1.0, np.pi / 2, np.pi / 2, np.pi / 2, 32, 64)
    assert inside[:8].all() and not inside[12:].any()  # the inscribed circle has 45 degrees, the corners 54.7


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [(7, 12), (6, 9)])
def test_signed_distance_is_the_distance_to_the_pixels_of_the_other_kind(seed: int, size: tuple[int, int]):
    mask = np.random.default_rng(seed).random(size) < (0.05, 0.3, 0.7, 0.95)[seed]
    np.testing.assert_allclose(signed_distance(mask), outline_distance(mask), rtol=0, atol=1e-5)


def test_signed_distance_sees_the_shorter_way_over_the_seam():
    mask = np.zeros((9, 40), bool)
    mask[:, 1:3] = True
    row = signed_distance(mask)[4]
    np.testing.assert_allclose(row[:5], [-0.5, 0.5, 0.5, -0.5, -1.5])
    np.testing.assert_allclose(row[-3:], [-3.5, -2.5, -1.5])


@pytest.mark.parametrize("view", VIEWS)
def test_signed_distance_is_continuous_and_crosses_zero_by_half_pixels(view: tuple[float, ...]):
    yaw, pitch, roll, horizontal, vertical = np.deg2rad(view)
    mask = footprint(yaw, pitch, horizontal, vertical, 64, 128, roll)
    distance = signed_distance(mask)
    assert distance.dtype == np.float32 and (distance[mask] >= 0.5).all() and (distance[~mask] <= -0.5).all()
    around = np.concatenate([distance, distance[:, :1]], axis=1)
    inside = np.concatenate([mask, mask[:, :1]], axis=1)
    for values, kinds, limit in (
        ((around[:, 1:], around[:, :-1]), (inside[:, 1:], inside[:, :-1]), 1),
        ((around[1:], around[:-1]), (inside[1:], inside[:-1]), 1),
        ((around[1:, 1:], around[:-1, :-1]), (inside[1:, 1:], inside[:-1, :-1]), np.sqrt(2)),
    ):
        assert np.abs(values[0] - values[1]).max() <= limit + 1e-5
        if limit == 1:
            np.testing.assert_allclose(np.abs(values[0])[kinds[0] != kinds[1]], 0.5)


def test_a_mask_without_outline_is_half_a_turn_away_everywhere():
    np.testing.assert_array_equal(signed_distance(np.ones((4, 8), bool)), np.full((4, 8), 4, np.float32))
    np.testing.assert_array_equal(signed_distance(np.zeros((4, 8), bool)), np.full((4, 8), -4, np.float32))


@pytest.mark.parametrize("columns", [1, 17, 64, -5])
@pytest.mark.parametrize("view", [(1.40625, 0.0, 90.0, 90.0), (0.0, 35.0, 120.0, 70.0), (-33.3, -80.0, 60.0, 100.0)])
def test_basd_rolls_with_yaw_by_whole_pixels(view: tuple[float, ...], columns: int):
    # The first view's sides run exactly through pixel centres: no rounding of an angle may move them.
    track = np.deg2rad(np.array([view])).astype(np.float32)
    turned = track + np.array([columns * 2 * np.pi / 128, 0, 0, 0], np.float32)
    np.testing.assert_array_equal(basd(turned, 64, 128), np.roll(basd(track, 64, 128), columns, axis=2))


def test_basd_is_stretched_over_the_clip_and_highest_inside():
    yaw = np.linspace(-3, 3, 5)
    track = np.stack([yaw, 0.2 * yaw, 1 + 0 * yaw, 0.5 + 0.1 * yaw], axis=1).astype(np.float32)
    maps = basd(track, 32, 64)
    assert maps.shape == (5, 32, 64) and maps.dtype == np.float32
    assert maps.min() == 0 and maps.max() == 1
    raw = np.stack([signed_distance(footprint(y, p, h, v, 32, 64)) for y, p, h, v in track.astype(float)])
    np.testing.assert_allclose(maps, (raw - raw.min()) / (raw.max() - raw.min()), atol=1e-6)
    for frame, (y, p, _, _) in zip(raw, track, strict=True):
        assert frame.flat[(directions(32, 64) @ direction_from_angles(y, p)).argmax()] > 0


def test_basd_measures_each_distinct_viewpoint_once(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def counted(mask: np.ndarray) -> np.ndarray:
        seen.append(mask)
        return signed_distance(mask)

    monkeypatch.setattr(geometry, "signed_distance", counted)
    track = np.array([[0, 0, 1, 1]] * 6 + [[0.5, 0, 1, 1]] * 3 + [[0, 0, 1, 1]], np.float32)
    maps = basd(track, 16, 32)
    assert len(seen) == 2
    np.testing.assert_array_equal(maps[0], maps[9])
    assert (maps[5] != maps[6]).any()


def test_a_view_narrower_than_a_pixel_still_marks_where_it_looks():
    track = np.deg2rad([[70.0, 20.0, 0.5, 0.5]]).astype(np.float32)
    row, column = np.unravel_index(basd(track, 18, 36)[0].argmax(), (18, 36))
    assert row in (6, 7) and column in (24, 25)  # the pixel corners there touch at latitude 20, longitude 70


@pytest.mark.parametrize("shape", [(0, 4), (3, 3), (4,)])
def test_a_track_of_another_shape_is_refused(shape: tuple[int, ...]):
    with pytest.raises(GeometryError, match="viewpoint track"):
        basd(np.ones(shape, np.float32), 16, 32)


def test_signed_distance_is_the_same_bits_every_time():
    mask = footprint(1.1, 0.4, 1.3, 1.0, 64, 128)
    first = signed_distance(mask)
    assert all((signed_distance(mask) == first).all() for _ in range(100))
