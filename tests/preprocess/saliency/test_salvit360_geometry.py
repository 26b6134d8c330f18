"""SalViT360's tangent images against a second reading by rotation matrices, and their way back to the panorama."""
# ruff: noqa: E402 -- imports that need torch come after asking for it

import numpy as np
import pytest
from einops import rearrange, reduce

from con360av_jax.sphere.geometry import direction_from_angles, rotation, view_directions

torch = pytest.importorskip("torch", reason="SalViT360 runs in PyTorch: pip install -e '.[torch]'")

from preprocess.saliency.salvit360.geometry import NARROW, WIDE, TangentLayout, position_input, tangent_angles
from preprocess.saliency.salvit360.network import Tangents

pytestmark = pytest.mark.usefixtures("one_thread")

# Longitude and latitude upwards, degrees: written out, not computed.
NARROW_CENTRES = (
    [(lon, 67.5) for lon in (-120, 0, 120)]
    + [(lon, 22.5) for lon in (-150, -90, -30, 30, 90, 150)]
    + [(lon, -22.5) for lon in (-150, -90, -30, 30, 90, 150)]
    + [(lon, -67.5) for lon in (-120, 0, 120)]
)
WIDE_CENTRES = (
    [(lon, 60) for lon in (-60, 60, 180)]
    + [(lon, 0) for lon in (-90, 0, 90, 180)]
    + [(lon, -60) for lon in (-60, 60, 180)]
)
SETS = [pytest.param(NARROW, NARROW_CENTRES, id="narrow"), pytest.param(WIDE, WIDE_CENTRES, id="wide")]
# The two effective fields of view, degrees.
SEEN = {NARROW: 69.84, WIDE: 92.64}


@pytest.fixture(scope="module")
def tangents() -> dict[TangentLayout, Tangents]:
    return {layout: Tangents(layout) for layout in (NARROW, WIDE)}


def rays(layout: TangentLayout, centres: list[tuple[float, float]], size: int) -> np.ndarray:
    """Unit vectors of tangent images' pixels by sphere.geometry, whose views end half a pixel further out."""
    fov = 2 * np.arctan(np.radians(layout.field_of_view) / 2 * size / (size - 1))
    views = np.stack([view_directions(yaw, pitch, fov, fov, size, size) for yaw, pitch in np.radians(centres)])
    return views / np.linalg.norm(views, axis=-1, keepdims=True)


def border_to_border(height: int, width: int) -> np.ndarray:
    """Unit vectors of a panorama whose first and last pixel lie on the seam and on the poles."""
    longitude, latitude = np.linspace(-np.pi, np.pi, width), np.linspace(np.pi / 2, -np.pi / 2, height)
    return direction_from_angles(longitude[None], latitude[:, None])


@pytest.mark.parametrize(("layout", "centres"), SETS)
def test_every_tangent_image_is_centred_where_its_layout_says(layout: TangentLayout, centres: list):
    longitude, latitude = np.moveaxis(tangent_angles(layout, 224), -1, 0)
    middle = direction_from_angles(longitude, -latitude)[:, 111:113, 111:113].mean(axis=(1, 2))
    np.testing.assert_allclose(middle, direction_from_angles(*np.radians(centres).T), atol=1e-4)


@pytest.mark.parametrize(("layout", "centres"), SETS)
def test_a_tangent_images_field_of_view_is_the_published_models_effective_one(layout: TangentLayout, centres: list):
    sides = rays(layout, centres, 224)[:, 111:113, [0, -1]].mean(axis=1)
    angle = np.degrees(np.arccos((sides[:, 0] * sides[:, 1]).sum(axis=-1)))
    np.testing.assert_allclose(angle, SEEN[layout], atol=0.05)


@pytest.mark.parametrize(("layout", "centres"), SETS)
def test_a_panorama_whose_colours_are_directions_gives_the_directions_of_every_pixel(layout, centres, tangents):
    panorama = torch.from_numpy(border_to_border(960, 1920)).float()
    images = tangents[layout].look(rearrange(panorama, "row column xyz -> 1 xyz row column"))
    found = rearrange(images.numpy(), "tangent xyz row column -> tangent row column xyz")
    np.testing.assert_allclose(found, rays(layout, centres, 224), atol=1e-3)


@pytest.mark.parametrize(("layout", "centres"), SETS)
def test_position_input_is_two_coordinates_one_and_the_centre(layout: TangentLayout, centres: list):
    cells = rearrange(
        position_input(layout), "tangent (channel row column) -> channel tangent row column", row=14, channel=5
    )
    mean = reduce(
        rays(layout, centres, 56), "tangent (row h) (column w) xyz -> xyz tangent row column", "mean", h=4, w=4
    )
    np.testing.assert_allclose(cells[:2], mean[[0, 2]], atol=1e-6)
    assert (cells[2] == 1).all()
    longitude, latitude = np.asarray(centres, np.float32).T[..., None, None]
    np.testing.assert_allclose(cells[3], np.broadcast_to(longitude / 180, cells[3].shape), atol=1e-6)
    np.testing.assert_allclose(cells[4], np.broadcast_to(-latitude / 90, cells[4].shape), atol=1e-6)


@pytest.mark.parametrize("layout", [NARROW, WIDE], ids=["narrow", "wide"])
def test_every_panorama_pixel_is_a_weighted_mean_of_map_pixels(layout: TangentLayout, tangents):
    taps = tangents[layout].taps
    assert taps.values().min() > 0
    np.testing.assert_allclose(taps.sum(dim=1).to_dense().numpy(), 1, atol=1e-5)
    constant = tangents[layout].panorama(torch.full((2, 28, 28, layout.count), 0.7))
    np.testing.assert_allclose(constant.numpy(), np.full((2, 240, 480), 0.7), atol=1e-6)


@pytest.mark.parametrize(("layout", "centres"), SETS)
def test_maps_that_hold_their_pixels_directions_come_back_as_the_panoramas(layout, centres, tangents):
    half = np.radians(layout.field_of_view) / 2
    across = (np.arange(28) / 28 * 2 - 1) * half
    x, y = np.meshgrid(across, across)
    local = np.stack([x, -y, np.ones_like(x)], axis=-1)
    local /= np.linalg.norm(local, axis=-1, keepdims=True)
    back = [(lon, np.sign(lat) * 59.6 if abs(lat) == 60 else lat) for lon, lat in centres]
    maps = np.stack([local @ rotation(yaw, pitch).T for yaw, pitch in np.radians(back)])
    found = tangents[layout].panorama(
        torch.from_numpy(rearrange(maps, "tangent row column xyz -> xyz row column tangent")).float()
    )
    error = np.abs(rearrange(found.numpy(), "xyz row column -> row column xyz") - border_to_border(240, 480)).max(
        axis=-1
    )
    # Past a map's last pixel its value is held: up to one map pixel, 2 half / 28, is missing there.
    assert error.max() < 2 * half / 28
    assert np.median(error) < 2e-3


def test_only_the_upper_left_quarter_of_larger_maps_is_read(tangents):
    maps = torch.full((1, 56, 56, 18), torch.nan)
    maps[:, :28, :28] = torch.rand(1, 28, 28, 18)
    whole, quarter = (tangents[NARROW].panorama(given) for given in (maps, maps[:, :28, :28]))
    assert torch.equal(whole, quarter)
