"""First-order ambisonics against plane waves: encoding, exact rotation, down-mixes and direction of arrival."""

import numpy as np
import pytest

from con360av_jax.errors import MediaError
from con360av_jax.sphere.ambisonics import encode, mono, rotate, sound_direction, stereo
from con360av_jax.sphere.geometry import angles_from_direction, direction_from_angles, rotation

LISTENERS = [(0.7, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, -0.9), (-2.9, 1.2, 0.4), (3.1, -np.pi / 2, 2.0)]


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    return np.random.default_rng(0).normal(size=400)


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(300, 4))


def azimuth_of(yaw: float) -> float:
    return -yaw


@pytest.mark.parametrize(
    ("azimuth", "elevation", "gains"),
    [
        (0.0, 0.0, (1, 0, 0, 1)),  # W, Y, Z, X: straight ahead
        (np.pi / 2, 0.0, (1, 1, 0, 0)),  # left
        (-np.pi / 2, 0.0, (1, -1, 0, 0)),  # right
        (np.pi, 0.0, (1, 0, 0, -1)),  # behind
        (0.0, np.pi / 2, (1, 0, 1, 0)),  # above
        (np.pi / 4, np.pi / 6, (1, np.sqrt(6) / 4, 0.5, np.sqrt(6) / 4)),
    ],
)
def test_a_plane_wave_has_the_gains_of_acn_and_sn3d(
    wave: np.ndarray, azimuth: float, elevation: float, gains: tuple[float, ...]
):
    np.testing.assert_allclose(encode(wave, azimuth, elevation), np.outer(wave, gains), atol=1e-12)


def test_a_moving_source_equals_its_standing_pieces(wave: np.ndarray):
    azimuth, elevation = np.linspace(-3, 3, 400), np.linspace(1, -1, 400)
    moving = encode(wave, azimuth, elevation)
    for sample in (0, 150, 399):
        piece = encode(wave[sample : sample + 1], float(azimuth[sample]), float(elevation[sample]))
        np.testing.assert_allclose(moving[sample], piece[0], atol=1e-12)


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("source", [(0.0, 0.0), (2.0, 0.3), (-1.1, -1.4), (0.5, np.pi / 2)])
def test_a_turned_listener_hears_a_source_at_its_direction_from_there(
    wave: np.ndarray, listener: tuple[float, ...], source: tuple[float, float]
):
    heard = rotate(encode(wave, azimuth_of(source[0]), source[1]), *listener)
    yaw, pitch = angles_from_direction(rotation(*listener).T @ direction_from_angles(*source))
    np.testing.assert_allclose(heard, encode(wave, azimuth_of(float(yaw)), float(pitch)), atol=1e-12)


@pytest.mark.parametrize("listener", LISTENERS)
def test_a_source_in_the_middle_of_the_view_is_heard_straight_ahead(wave: np.ndarray, listener: tuple[float, ...]):
    yaw, pitch, _ = listener
    heard = rotate(encode(wave, azimuth_of(yaw), pitch), *listener)
    np.testing.assert_allclose(heard, np.outer(wave, (1, 0, 0, 1)), atol=1e-12)


def test_a_head_rolled_clockwise_hears_its_right_side_lower(wave: np.ndarray):
    heard = rotate(encode(wave, azimuth_of(np.pi / 2), 0.0), 0.0, 0.0, 0.3)
    np.testing.assert_allclose(heard[:, 2], np.sin(0.3) * wave, atol=1e-12)


@pytest.mark.parametrize("listener", LISTENERS)
def test_turning_away_and_back_gives_the_same_sound(field: np.ndarray, listener: tuple[float, ...]):
    yaw, pitch, roll = listener
    turned = rotate(field, yaw, pitch, roll)
    assert np.abs(turned - field).max() > 0.1
    # The inverse of R_yaw R_pitch R_roll, one turn at a time: a listener turned by A, then by B, is turned by A B.
    back = rotate(rotate(rotate(turned, 0.0, 0.0, -roll), 0.0, -pitch), -yaw)
    np.testing.assert_allclose(back, field, atol=1e-12)


@pytest.mark.parametrize("listener", LISTENERS)
def test_rotation_keeps_w_and_the_energy_of_the_rest(field: np.ndarray, listener: tuple[float, ...]):
    turned = rotate(field, *listener)
    np.testing.assert_array_equal(turned[:, 0], field[:, 0])
    np.testing.assert_allclose((turned[:, 1:] ** 2).sum(1), (field[:, 1:] ** 2).sum(1), rtol=1e-12)


def test_mono_is_channel_w(field: np.ndarray):
    np.testing.assert_array_equal(mono(field), field[:, 0])


def test_left_is_louder_for_a_source_on_the_left_and_their_sum_is_mono(wave: np.ndarray):
    sound = encode(wave, 1.0, 0.2)
    left, right = stereo(sound).T
    assert (left**2).sum() > 4 * (right**2).sum()
    np.testing.assert_allclose(left + right, wave, atol=1e-12)
    np.testing.assert_allclose(left, wave * (1 + np.sin(1.0) * np.cos(0.2)) / 2, atol=1e-12)


def test_turning_the_view_around_swaps_left_and_right(field: np.ndarray):
    np.testing.assert_allclose(stereo(field, yaw=0.4 + np.pi), stereo(field, yaw=0.4)[:, ::-1], atol=1e-12)


def test_a_source_at_the_right_edge_of_the_view_sounds_from_the_right(wave: np.ndarray):
    sound = encode(wave, azimuth_of(2.4), 0.0)
    for yaw, louder in ((2.0, 1), (2.8, 0)):
        energy = (stereo(sound, yaw=yaw) ** 2).sum(0)
        assert energy.argmax() == louder


def test_whole_numbers_are_measured_without_overflow(wave: np.ndarray):
    sound = np.round(encode(wave, -0.8, 0.4) * 8000).astype(np.int16)
    np.testing.assert_allclose(sound_direction(sound), (-0.8, 0.4), atol=1e-3)
    np.testing.assert_allclose(stereo(sound), stereo(sound.astype(np.float64)), atol=1e-2)


@pytest.mark.parametrize(("given", "wanted"), [(np.int16, np.float32), (np.float32, np.float32)])
def test_floats_keep_their_type_and_whole_numbers_become_float32(given, wanted):
    wave = np.arange(10).astype(given)
    sound = encode(wave, 0.1, 0.2)
    assert sound.dtype == rotate(sound, 1.0).dtype == stereo(sound).dtype == wanted


@pytest.mark.parametrize("operation", [mono, lambda sound: rotate(sound, 1.0), stereo])
@pytest.mark.parametrize("shape", [(100,), (100, 2), (4, 100)])
def test_sound_without_four_channels_is_refused(operation, shape: tuple[int, ...]):
    with pytest.raises(MediaError, match="order W, Y, Z, X"):
        operation(np.zeros(shape))


def test_sound_direction_finds_the_louder_of_two_sources_that_sound_at_once():
    times = np.arange(16_000) / 16_000
    loud, quiet = np.sin(2 * np.pi * 440 * times), 0.6 * np.sin(2 * np.pi * 1730 * times)
    field = encode(loud, 2.9, -0.4) + encode(quiet, -0.6, 0.3)
    azimuth, elevation = sound_direction(field)
    assert azimuth == pytest.approx(2.9, abs=0.02) and elevation == pytest.approx(-0.4, abs=0.02)


def test_sound_direction_of_silence_is_ahead_and_of_too_little_is_refused():
    assert sound_direction(np.zeros((64, 4))) == (0.0, 0.0)
    with pytest.raises(MediaError, match="1 samples in windows of 1024: give at least 2"):
        sound_direction(np.zeros((1, 4)))
    with pytest.raises(MediaError, match="first-order ambisonics"):
        sound_direction(np.zeros((64, 2)))
