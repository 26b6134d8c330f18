"""TempSAL: the published tensors, the network against a second reading of them, pictures alone, and its files."""
# ruff: noqa: E402 -- imports that need torch come after asking for it

from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import CheckpointError, MediaError

torch = pytest.importorskip("torch", reason="TempSAL runs in PyTorch: pip install -e '.[torch]'")

from preprocess.features.tempsal import SIDE, TempSAL, TempSALNetwork, load_tempsal, published_key, stretched
from tests.support.tempsal_reference import encoder_taps, image_saliency, published_shapes
from tests.support.torch_weights import Hostile

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH = 8


def random_state(width: int = WIDTH):
    """Random weights whose signal neither dies nor grows, by the keys of the published file."""
    generator, state = torch.Generator().manual_seed(0), {}
    for name, shape in published_shapes(width).items():
        if name.endswith("tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) > 1:
            state[name] = torch.randn(shape, generator=generator) * float(np.prod(shape[1:]) ** -0.5)
        elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            state[name] = torch.rand(shape, generator=generator) * 0.6 + 0.7
        else:
            state[name] = torch.randn(shape, generator=generator) * 0.1
    return state


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tempsal") / "small.pt"
    torch.save(random_state(), path)
    return path


@pytest.fixture(scope="module")
def network(file: Path) -> TempSALNetwork:
    return load_tempsal(file, WIDTH)


def test_the_network_has_the_published_tensors_and_maps():
    with torch.device("meta"):
        network = TempSALNetwork()
        taps = network.pnas_vol.pnas(torch.zeros(1, 3, SIDE, SIDE))
        assert network(torch.zeros(2, 3, SIDE, SIDE)).shape == (2, SIDE, SIDE)
    shapes = {published_key(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes == published_shapes()
    assert [(tap.shape[1], tap.shape[2]) for tap in taps] == [(96, 128), (270, 64), (1080, 32), (2160, 16), (4320, 8)]
    # PNASNet-5-Large is said to have 86,057,668 with 1,000 classes; one more class has 4,321.
    assert sum(weight.numel() for weight in network.pnas_sal.pnas.parameters()) == 86_057_668 + 4_321
    # With its decoder 116.2 million, twice.
    assert round(sum(weight.numel() for weight in network.pnas_sal.parameters()) / 1e6, 1) == 116.2


def test_the_network_equals_a_second_reading_of_its_file(network: TempSALNetwork):
    pictures = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    state = random_state()
    with torch.inference_mode():
        found = network.pnas_vol.pnas(pictures)
        for tap, wanted in zip(found, encoder_taps(state, "pnas_vol.module.module.pnas", pictures), strict=True):
            np.testing.assert_allclose(tap, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
        got, expected = network(pictures).numpy(), image_saliency(state, pictures).numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01


def test_a_picture_does_not_feel_the_pictures_beside_it(network: TempSALNetwork):
    pictures = np.random.default_rng(0).integers(0, 256, (5, 64, 80, 3), dtype=np.uint8)
    pictures[3] //= 8
    tempsal = TempSAL(network)
    maps = tempsal(pictures)
    assert maps.shape == (5, SIDE, SIDE)
    assert maps.dtype == np.float32
    assert 0 <= maps.min() < maps.max() <= 1
    for number in (0, 3, 4):
        np.testing.assert_allclose(maps[number], tempsal(pictures[number, None])[0], rtol=0, atol=1e-5)
    assert tempsal(pictures[:0]).shape == (0, SIDE, SIDE)
    with pytest.raises(MediaError, match="wanted uint8"):
        tempsal(pictures[0])


def test_pictures_of_the_networks_size_enter_as_they_are():
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    np.testing.assert_array_equal(stretched(picture), picture)
    wide = np.repeat(np.arange(0, 256, dtype=np.uint8)[:, None, None], 512, axis=1).repeat(3, axis=2)
    np.testing.assert_array_equal(stretched(wide)[:, 5], wide[:, 5])


def test_one_error_names_every_key_that_is_not_the_networks(file: Path, tmp_path: Path):
    path, state = tmp_path / "a.pt", random_state()
    moved = "pnas_sal.module.module.pnas.cells.3._ops.4.op.7.running_var"
    state["stranger"] = state.pop(moved)
    state["deconv_mix.0.bias"] = state["deconv_mix.0.bias"][:3]
    state["deconv_layer2.0.bias"][0] = np.nan
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="is not TempSAL, 4 problems") as caught:
        load_tempsal(path, WIDTH)
    for part in (
        f"{moved} is missing",
        "stranger is unexpected",
        "deconv_mix.0.bias has shape (3,), wanted (16,)",
        "deconv_layer2.0.bias holds NaN or infinity",
    ):
        assert part in str(caught.value)
    with pytest.raises(CheckpointError, match="is no file"):
        load_tempsal(tmp_path / "b.pt")
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="no weights by name"):
        load_tempsal(path, WIDTH)
    path.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="is corrupt"):
        load_tempsal(path, WIDTH)


def test_a_file_that_could_run_code_is_refused(tmp_path: Path):
    torch.save(random_state() | {"stranger": Hostile(tmp_path / "ran")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="could run code: refused"):
        load_tempsal(tmp_path / "a.pt", WIDTH)
    assert not (tmp_path / "ran").exists()


def test_files_without_counters_of_training_steps_load_too(tmp_path: Path):
    state = {name: value for name, value in random_state().items() if not name.endswith("tracked")}
    torch.save(state, tmp_path / "a.pt")
    assert not load_tempsal(tmp_path / "a.pt", WIDTH).training


@pytest.mark.slow
def test_the_published_size_runs(tmp_path: Path):
    torch.save(random_state(216), tmp_path / "a.pt")
    maps = TempSAL(load_tempsal(tmp_path / "a.pt"))(np.full((1, 256, 256, 3), 90, np.uint8))
    assert maps.shape == (1, SIDE, SIDE)
    assert np.isfinite(maps).all()
