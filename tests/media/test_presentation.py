"""Frames come out as a player shows them, whatever the file stores."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import MediaError
from con360av_jax.media.files import probe, read_frames
from tests.support.panorama_files import write_panorama
from tests.support.turned_files import TURNS, corners, display_matrix, quarters


@pytest.mark.parametrize("turn", list(TURNS))
@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_every_turn_and_mirroring_is_shown(tmp_path: Path, turn: str, ending: str):
    matrix, undone = TURNS[turn]
    shown = corners()
    stored = np.ascontiguousarray(undone(shown))
    path = write_panorama(
        tmp_path / f"a{ending}", times=(0, 0.125), pictures=[stored] * 2, matrix=display_matrix(*matrix)
    )
    info = probe(path)
    assert (info.height, info.width) == shown.shape[:2]
    frame = read_frames(path, 8)[0]
    assert frame.shape == shown.shape
    for picture in (frame, read_frames(path, 8, size=(16, 32))[0]):
        np.testing.assert_array_equal(quarters(picture), quarters(shown))


def test_a_scaled_or_slightly_inexact_matrix_is_its_quarter_turn_and_zeros_are_none(tmp_path: Path):
    for matrix, wanted in (((-0.5, 0.004, 0.002, -0.5), np.rot90(corners(), 2)), ((0, 0, 0, 0), corners())):
        path = write_panorama(
            tmp_path / "a.mov", times=(0, 0.125), pictures=[corners()] * 2, matrix=display_matrix(*matrix)
        )
        np.testing.assert_array_equal(quarters(read_frames(path, 8)[0]), quarters(wanted))


@pytest.mark.parametrize("matrix", [(0.9, 0.1, -0.1, 0.9), (1, 1, -1, 1), (1, 0, 1, 0)])
def test_another_angle_and_a_shear_are_refused_by_name(tmp_path: Path, matrix):
    path = write_panorama(tmp_path / "a.mov", times=(0, 0.125), matrix=display_matrix(*matrix))
    for read in (probe, lambda path: read_frames(path, 8)):
        with pytest.raises(MediaError, match=f"{path}: its display matrix turns or shears .* ffmpeg"):
            read(path)


@pytest.mark.parametrize(
    ("pixel_aspect", "size"), [(Fraction(2), (32, 128)), (Fraction(9, 16), (57, 64)), (Fraction(3, 2), (32, 96))]
)
def test_pixels_become_square_and_none_is_lost(tmp_path: Path, pixel_aspect: Fraction, size: tuple[int, int]):
    path = write_panorama(tmp_path / "a.mp4", times=(0, 0.125), pixel_aspect=pixel_aspect)
    info = probe(path)
    assert (info.height, info.width) == size
    assert read_frames(path, 8).shape[1:3] == size
    turned = write_panorama(
        tmp_path / "b.mp4", times=(0, 0.125), pixel_aspect=pixel_aspect, matrix=display_matrix(*TURNS["90"][0])
    )
    assert (probe(turned).width, probe(turned).height) == size


def test_pixels_that_no_camera_has_are_refused(tmp_path: Path):
    path = write_panorama(tmp_path / "a.mp4", times=(0, 0.125), pixel_aspect=Fraction(16))
    with pytest.raises(MediaError, match="16 times as wide as high"):
        probe(path)
