"""Viewpoints in degrees: ranges, the command line's text form, constant and moving tracks."""

from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import GeometryError
from con360av_jax.sphere.viewpoint import Viewpoint, read_trajectory


def write(folder: Path, text: str) -> Path:
    path = folder / "trajectory.csv"
    path.write_text(text)
    return path


def test_a_viewpoint_becomes_a_constant_track_in_radians():
    track = Viewpoint(yaw=30, pitch=-45, fov=90, vertical_fov=60).track(3)
    assert track.shape == (3, 4) and track.dtype == np.float32
    np.testing.assert_allclose(track, [[np.pi / 6, -np.pi / 4, np.pi / 2, np.pi / 3]] * 3, rtol=1e-6)


def test_the_vertical_field_of_view_follows_the_horizontal_one_unless_given():
    np.testing.assert_array_equal(Viewpoint(fov=70).track(1), Viewpoint(fov=70, vertical_fov=70).track(1))
    assert Viewpoint(fov=70, vertical_fov=50).track(1)[0, 3] < Viewpoint(fov=70).track(1)[0, 3]


@pytest.mark.parametrize("edge", [{"yaw": -180}, {"yaw": 180}, {"pitch": 90}, {"pitch": -90}, {"fov": 170}])
def test_the_ends_of_the_ranges_are_allowed(edge: dict[str, float]):
    assert np.isfinite(Viewpoint(**edge).track(1)).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("yaw", 180.5),
        ("yaw", -200.0),
        ("yaw", float("nan")),
        ("pitch", 90.1),
        ("pitch", -91.0),
        ("fov", 0.0),
        ("fov", 171.0),
        ("fov", -10.0),
        ("vertical_fov", 0.0),
        ("vertical_fov", float("inf")),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: float):
    with pytest.raises(GeometryError, match=f"^{name}={value:g} is out of range: give degrees [^\n]*$"):
        Viewpoint(**{name: value})


@pytest.mark.parametrize(
    ("text", "viewpoint"),
    [
        ("yaw=30,pitch=0,fov=90", Viewpoint(yaw=30, pitch=0, fov=90)),
        (" fov = 60 , yaw=-170.5", Viewpoint(yaw=-170.5, fov=60)),
        ("yaw=1e1,vertical_fov=45", Viewpoint(yaw=10, vertical_fov=45)),
    ],
)
def test_a_viewpoint_is_parsed_from_text(text: str, viewpoint: Viewpoint):
    assert Viewpoint.parse(text) == viewpoint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot use ''"),
        ("yaw=30,tilt=3", "cannot use 'tilt=3'"),
        ("yaw=30,yaw=31", "cannot use 'yaw=31'"),
        ("yaw", "yaw='' is not a number"),
        ("yaw=left", "yaw='left' is not a number"),
        ("fov=nan", "fov='nan' is not finite"),
        ("yaw=30,pitch=100", "pitch=100 is out of range"),
    ],
)
def test_text_that_is_no_viewpoint_is_refused(text: str, words: str):
    with pytest.raises(GeometryError, match=words) as refusal:
        Viewpoint.parse(text)
    assert "\n" not in str(refusal.value)


def test_a_trajectory_is_interpolated_at_the_frames_times_and_held_at_both_ends(tmp_path: Path):
    path = write(tmp_path, "time,yaw,pitch,fov\n1,0,0,60\n3,40,-20,100\n")
    track = read_trajectory(path, frames=9, frames_per_second=2)
    assert track.shape == (9, 4) and track.dtype == np.float32
    share = np.clip((np.arange(9) / 2 - 1) / 2, 0, 1)
    truth = np.stack([40 * share, -20 * share, 60 + 40 * share, 60 + 40 * share], axis=1)
    np.testing.assert_allclose(np.rad2deg(track), truth, atol=1e-4)


def test_a_trajectory_turns_the_short_way_across_the_back(tmp_path: Path):
    path = write(tmp_path, "time,yaw,pitch,fov\n0,170,0,90\n2,-170,0,90\n4,150,0,90\n")
    yaw = np.rad2deg(read_trajectory(path, frames=5, frames_per_second=1)[:, 0])
    assert np.abs(yaw).max() <= 180 + 1e-4
    np.testing.assert_allclose(np.cos(np.deg2rad(yaw - [170, 180, -170, 170, 150])), 1, atol=1e-10)


def test_a_constant_trajectory_equals_the_viewpoint(tmp_path: Path):
    path = write(tmp_path, "\ufefftime, yaw, pitch, fov, vertical_fov\n\n0, 180, 90, 170, 30\n")
    viewpoint = Viewpoint(yaw=180, pitch=90, fov=170, vertical_fov=30)
    np.testing.assert_array_equal(read_trajectory(path, 4, 8), viewpoint.track(4))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"columns \[\]"),
        ("time,yaw,pitch\n0,0,0\n", "first line must read time,yaw,pitch,fov"),
        ("time,yaw,pitch,fov,zoom\n0,0,0,90,1\n", "columns .*'zoom'"),
        ("time,yaw,yaw,pitch,fov\n0,0,0,0,90\n", "columns"),
        ("time,yaw,pitch,fov\n", "no line below its header"),
        ("time,yaw,pitch,fov\n0,0,0\n", "line 2: 3 values"),
        ("time,yaw,pitch,fov\n0,0,0,90\n1,east,0,90\n", "line 3: yaw='east' is not a number"),
        ("time,yaw,pitch,fov\n0,0,0,90\n1,190,0,90\n", "line 3: yaw=190 is out of range"),
        ("time,yaw,pitch,fov\n1,0,0,90\n1,5,0,90\n", "times must increase"),
    ],
)
def test_a_damaged_trajectory_is_one_clear_line(tmp_path: Path, text: str, words: str):
    path = write(tmp_path, text)
    with pytest.raises(GeometryError, match=words) as refusal:
        read_trajectory(path, 4, 8)
    assert "\n" not in str(refusal.value) and str(path) in str(refusal.value)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path):
    with pytest.raises(GeometryError, match="missing.csv: cannot be read"):
        read_trajectory(tmp_path / "missing.csv", 4, 8)
    (tmp_path / "binary.csv").write_bytes(b"\xff\x00\x81")
    with pytest.raises(GeometryError, match="binary.csv: is not text in UTF-8"):
        read_trajectory(tmp_path / "binary.csv", 4, 8)
