"""FastGaze: its file is read whole or refused, its layers are the file's, and it looks at what stands out."""
# ruff: noqa: E402 -- imports that need torch come after asking for it

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import CheckpointError, MediaError
from con360av_jax.scenes.panorama import render_frame
from con360av_jax.scenes.scene import make_scene
from con360av_jax.sphere.geometry import direction_from_angles, render_view, rotation
from tests.support.vxm_file import integers, layer_outputs, random_entries, read_file, tensor_entries, write_file

torch = pytest.importorskip("torch", reason="FastGaze runs in PyTorch: pip install -e '.[torch]'")

from preprocess.features.fastgaze import STRIDE, FastGaze, load_fastgaze, open_fastgaze

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["random weights", "published weights"])
def weights(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "random weights":
        return write_file(tmp_path / "a.vxm", random_entries())
    return request.getfixturevalue("shared_models") / "fastgaze.vxm"


def random_pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_layers_equal_a_second_independent_reading_of_the_file(weights: Path):
    picture = random_pictures(64, 96, 3)
    expected = layer_outputs(read_file(weights), picture)
    network = load_fastgaze(weights)
    assert len(network.layers) == len(expected) == 19
    # Each layer from the true input of its own, so that an error cannot hide behind or grow out of another one.
    x = np.moveaxis(picture - np.array([123.68, 116.779, 103.939]), 2, 0)
    for number, (layer, wanted) in enumerate(zip(network.layers, expected, strict=True)):
        got = layer(torch.from_numpy(x).float()[None])[0].numpy()
        scale = max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(got / scale, wanted / scale, rtol=0, atol=1e-5, err_msg=f"layer {number}")
        x = wanted
    shares = np.exp(expected[-1][0] - expected[-1].max())
    density = network(torch.from_numpy(picture).movedim(2, 0)[None].float())[0].numpy()
    np.testing.assert_allclose(density, shares / shares.sum(), rtol=0, atol=1e-5)


def test_the_file_has_the_published_number_of_weights(weights: Path):
    slopes = 4
    assert sum(parameter.numel() for parameter in load_fastgaze(weights).parameters()) == 121_060 + slopes


@pytest.mark.parametrize(("size", "cells"), [((256, 256), (30, 30)), ((90, 160), (30, 53)), ((720, 540), (40, 30))])
def test_densities_sum_to_one_over_cells_of_the_documented_size(tmp_path: Path, size, cells):
    gaze = open_fastgaze(write_file(tmp_path / "a.vxm", random_entries()))
    densities = gaze(random_pictures(2, *size, 3))
    assert densities.shape == (2, *cells)
    assert densities.dtype == np.float32
    assert densities.min() >= 0
    np.testing.assert_allclose(densities.sum(axis=(1, 2)), 1, atol=1e-5)


def test_a_picture_does_not_feel_the_pictures_beside_it(tmp_path: Path):
    gaze = open_fastgaze(write_file(tmp_path / "a.vxm", random_entries()))
    pictures = random_pictures(5, 64, 64, 3)
    alone = np.concatenate([gaze(picture[None]) for picture in pictures])
    np.testing.assert_allclose(gaze(pictures), alone, rtol=1e-4, atol=1e-9)
    assert gaze(pictures[:0]).shape == (0, 30, 30)


@pytest.mark.parametrize("pictures", [np.zeros((1, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)])
def test_pictures_of_another_kind_are_refused(tmp_path: Path, pictures: np.ndarray):
    gaze = open_fastgaze(write_file(tmp_path / "a.vxm", random_entries()))
    with pytest.raises(MediaError, match="wanted uint8"):
        gaze(pictures)


def view_of_one_object(number: int) -> tuple[np.ndarray, tuple[float, float], float]:
    """A view of a scene with one object off centre; the object's place (row, column) and radius, pixels."""
    scene = make_scene(seed=5, index=number)
    item = scene.objects[0]
    scene = replace(scene, objects=(item,))
    time = float(item.onsets[0]) + 0.05
    generator = np.random.default_rng(number)
    aside, above = generator.choice((-1, 1), 2) * generator.uniform((0.25, 0.1), (0.7, 0.3))
    longitude, latitude = (float(angle) for angle in item.motion.angles(np.array(time)))
    yaw, pitch = longitude - aside, float(np.clip(latitude - above, -0.6, 0.6))
    view = render_view(render_frame(scene, time, 320, 640), yaw, pitch, np.pi / 2, np.pi / 2, 480, 480)
    right, up, ahead = rotation(yaw, pitch).T @ direction_from_angles(longitude, latitude)
    radius = np.tan(item.angular_radius(np.array(time), scene.seconds)) * 240 / ahead**2
    return view, ((1 - up / ahead) * 240, (right / ahead + 1) * 240), float(radius)


def share_of_peaks_on_the_object(gaze: FastGaze, pictures: int) -> float:
    found = 0
    for number in range(pictures):
        view, place, radius = view_of_one_object(number)
        density = gaze(view[None])[0]
        peak = np.array(np.unravel_index(density.argmax(), density.shape)) * STRIDE + STRIDE / 2
        found += bool(np.hypot(*(peak - place)) <= radius + STRIDE / 2)
    return found / pictures


def test_peak_falls_on_the_object_in_nine_of_ten_pictures(shared_models: Path):
    share = share_of_peaks_on_the_object(open_fastgaze(shared_models / "fastgaze.vxm"), 30)
    assert share >= 0.9  # 28 of 30 when written


@pytest.mark.parametrize("cut", [0, 3, 6, 20, 1000, -1])
def test_a_file_cut_off_is_refused(tmp_path: Path, cut: int):
    path = write_file(tmp_path / "a.vxm", random_entries())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"a\.vxm.*(ends early|begins with)"):
        load_fastgaze(path)


def test_files_that_are_something_else_are_refused(tmp_path: Path):
    path = tmp_path / "a.vxm"
    with pytest.raises(CheckpointError, match="is no file"):
        load_fastgaze(path)
    path.write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(CheckpointError, match="begins with"):
        load_fastgaze(path)
    path.write_bytes(write_file(path, random_entries()).read_bytes() + b"more")
    with pytest.raises(CheckpointError, match="4 bytes after the last of its 239 entries"):
        load_fastgaze(path)
    write_file(path, random_entries() | {"a\nb": b""})
    with pytest.raises(CheckpointError, match="is no new name"):
        load_fastgaze(path)


def test_one_error_names_every_entry_that_is_not_the_networks(tmp_path: Path):
    entries = random_entries()
    del entries["3b.dtype"]
    entries |= {"19Type": integers(2), "6Act": integers(4), "18Std": integers(2), "9b": entries["9b"][:-4]}
    entries |= tensor_entries("1b", np.full(44, np.nan)) | tensor_entries("17w", np.ones((1, 2, 3, 3)))
    with pytest.raises(CheckpointError) as caught:
        load_fastgaze(write_file(tmp_path / "a.vxm", entries))
    for part in (
        "3b.dtype is missing",
        "19Type is unexpected",
        "6Act is 4, wanted 1",
        "18Std is 2, wanted 3",
        "9b has 120 bytes, wanted 124",
        "1b holds NaN or infinity",
        "17w.shape is (1, 2, 3, 3), wanted (1, 2, 1, 1)",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
