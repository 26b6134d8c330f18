"""I3D: the published tensors, the network against a second one in JAX, clips in both conventions, and its files."""
# ruff: noqa: E402 -- imports that need torch come after asking for it

import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from con360av_jax.errors import CheckpointError, ConfigError, MediaError

torch = pytest.importorskip("torch", reason="I3D runs in PyTorch: pip install -e '.[torch]'")

from preprocess.features.clips import I3D, Convention, open_i3d, prepared
from preprocess.features.i3d import InceptionI3d, pad_as_tensorflow
from preprocess.features.i3d_files import load_i3d, load_scripted_i3d
from tests.support.i3d_reference import published_shapes, scores
from tests.support.torch_weights import numbered

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN_FILE = "CON360AV_I3D_TORCHSCRIPT"


@pytest.fixture(scope="module")
def network() -> InceptionI3d:
    """Random weights whose signal neither dies nor grows."""
    generator = torch.Generator().manual_seed(0)
    network = InceptionI3d()
    for name, weight in network.state_dict().items():
        if name.endswith("conv3d.weight"):
            weight.normal_(0, float(np.sqrt(2 / weight[0].numel())), generator=generator)
        elif name.endswith(("bn.weight", "running_var")):
            weight.uniform_(0.7, 1.3, generator=generator)
        elif not name.endswith("tracked"):
            weight.normal_(0, 0.1, generator=generator)
    return network.eval().requires_grad_(False)


def random_clips(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_the_network_has_the_published_tensors():
    with torch.device("meta"):
        network = InceptionI3d()
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == published_shapes()
    assert sum(parameter.numel() for parameter in network.parameters()) == 12_697_264


@pytest.mark.parametrize("frames", [9, 10])
def test_the_network_equals_a_second_one_in_jax(network: InceptionI3d, frames: int):
    clip = np.random.default_rng(1).uniform(-1, 1, (3, frames, 224, 224)).astype(np.float32)
    got = network(torch.from_numpy(clip)[None])[0].numpy()
    expected = scores({name: value.numpy() for name, value in network.state_dict().items()}, clip)
    assert got.shape == (400,)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert expected.std() > 0.01


def test_nine_frames_are_enough_and_eight_are_not(network: InceptionI3d):
    with pytest.raises(MediaError, match=r"\(3, 8, 224, 224\); wanted \(3, 9 frames or more, 224, 224\)"):
        network(torch.zeros(1, 3, 8, 224, 224))
    with pytest.raises(MediaError, match="have 8 frames; I3D with stylegan-v wants 9 or more"):
        I3D(network, "stylegan-v")(random_clips(1, 8, 32, 32))
    with pytest.raises(MediaError, match="have 9 frames; I3D with videogpt wants 10 or more"):
        I3D(network, "videogpt")(random_clips(1, 9, 32, 32))
    with pytest.raises(MediaError, match="wanted uint8"):
        I3D(network, "videogpt")(np.zeros((1, 10, 32, 32, 3)))


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(9, 7, 2), (8, 7, 2), (5, 3, 2), (4, 2, 2), (5, 2, 2), (6, 3, 1)]
)
def test_padding_gives_every_step_its_place_with_the_odd_zero_last(size: int, kernel: int, stride: int):
    padded = pad_as_tensorflow(torch.ones(1, 1, size, 1, 1), (kernel, 1, 1), (stride, 1, 1))[0, 0, :, 0, 0]
    steps = (len(padded) - kernel) // stride + 1
    assert steps == -(-size // stride)
    before, after = int(padded.argmax()), int(padded.flip(0).argmax())
    assert after - before in (0, 1)


def test_a_clip_does_not_feel_the_clips_beside_it(network: InceptionI3d):
    features = I3D(network, "stylegan-v")
    clips = random_clips(5, 9, 32, 48)
    together = features(clips)
    alone = np.concatenate([features(clips[number : number + 1]) for number in (0, 4)])
    np.testing.assert_allclose(together[[0, 4]], alone, rtol=0, atol=1e-4 * np.abs(alone).max())
    assert together.shape == (5, 400)
    assert together.dtype == np.float32
    assert features(clips[:0]).shape == (0, 400)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 100), (300, 240)])
def test_both_conventions_prepare_clips_as_documented(height: int, width: int):
    clips = random_clips(2, 3, height, width)
    given = torch.from_numpy(clips).permute(0, 4, 1, 2, 3)
    shorter = min(height, width)
    longer = {"width": -(-width * 224 // shorter), "height": -(-height * 224 // shorter)}
    sizes: dict[Convention, tuple[int, int]]
    sizes = {"stylegan-v": (224, 224), "videogpt": (longer["width"], longer["height"])}
    for convention, size in sizes.items():
        got = prepared(given, convention).numpy()
        assert got.shape == (2, 3, 3, 224, 224)
        left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
        for clip, frame in ((0, 0), (1, 2)):
            wanted = cv2.resize(clips[clip, frame].astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
            wanted = wanted[top : top + 224, left : left + 224] / 127.5 - 1
            np.testing.assert_allclose(got[clip, :, frame].transpose(1, 2, 0), wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("counted", [True, False], ids=["new", "before PyTorch 0.4"])
def test_every_weight_of_a_published_file_comes_to_its_own_place(tmp_path: Path, counted: bool):
    given = {
        name: value
        for name, value in numbered(published_shapes(), 1000).items()
        if counted or not name.endswith("num_batches_tracked")
    }
    torch.save(given, tmp_path / "a.pt")
    loaded = load_i3d(tmp_path / "a.pt").state_dict()
    assert set(loaded) == set(published_shapes())
    assert all(torch.equal(loaded[name], value) for name, value in given.items())


def test_one_error_lists_everything_that_is_wrong(tmp_path: Path):
    given = numbered(published_shapes(), 1000)
    del given["Mixed_3b.b1a.bn.bias"]
    given |= {"logits.conv3d.bias": torch.zeros(600), "fc.weight": torch.zeros(1)}
    torch.save(given, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        load_i3d(tmp_path / "a.pt")
    for part in (
        "3 problems",
        "Mixed_3b.b1a.bn.bias is missing",
        "fc.weight is unexpected",
        "logits.conv3d.bias has shape (600,), wanted (400,)",
    ):
        assert part in str(caught.value)
    torch.save([1], tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="no weights by name"):
        load_i3d(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="is no file"):
        load_i3d(tmp_path / "b.pt")


def scripted(path: Path, outputs: int = 400) -> Path:
    """A TorchScript program that is called as the published one, and gives what it was asked for and a mean."""

    class Program(torch.nn.Module):
        def __init__(self, outputs: int):
            super().__init__()
            self.outputs = outputs

        def forward(self, x, rescale: bool = False, resize: bool = False, return_features: bool = False):
            asked = [float(rescale), float(resize), float(return_features), float(x.float().mean())]
            return torch.tensor(asked).repeat(self.outputs // 4)[None].expand(x.shape[0], self.outputs)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Program(outputs)).save(path)
    return path


def test_a_program_runs_only_if_code_is_allowed(tmp_path: Path):
    path = scripted(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="is a TorchScript program.*nothing of it was run.*allow_code=True"):
        open_i3d(path, "videogpt")
    white = np.full((6, 10, 64, 64, 3), 255, np.uint8)
    asked: dict[Convention, list[int]] = {"videogpt": [0, 0, 1, 1], "stylegan-v": [1, 1, 1, 255]}
    for convention, wanted in asked.items():
        given = open_i3d(path, convention, allow_code=True)(white)
        assert given.shape == (6, 400)
        np.testing.assert_allclose(given[:, :4], [wanted] * 6)


def test_other_files_are_refused_as_programs(tmp_path: Path):
    path = tmp_path / "a.pt"
    with pytest.raises(ConfigError, match="allow_code=True"):
        load_scripted_i3d(path, allow_code=False)
    with pytest.raises(CheckpointError, match="is no file"):
        open_i3d(path, "videogpt", allow_code=True)
    torch.save(numbered(published_shapes(), 1000), path)
    with pytest.raises(CheckpointError, match="is no TorchScript program"):
        open_i3d(path, "videogpt", allow_code=True)
    with pytest.raises(CheckpointError, match=r"gives \(1, 600\) for 1 clips, wanted \(1, 400\)"):
        open_i3d(scripted(path, 600), "videogpt", allow_code=True)(random_clips(1, 10, 32, 32))


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.linalg import sqrtm

    apart = first.mean(axis=0) - second.mean(axis=0)
    one, other = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    return float(apart @ apart + np.trace(one + other - 2 * np.real(sqrtm(one @ other))))


@pytest.mark.skipif(GOLDEN_FILE not in os.environ, reason=f"{GOLDEN_FILE} names no i3d_torchscript.pt")
@pytest.mark.parametrize(("frames", "published"), [(30, 151.2565), (10, 569.2296)])
def test_published_weights_give_the_published_distance_of_black_and_white(frames: int, published: float):
    """common_metrics_on_video_quality: 8 clips of 30x3x64x64, all zeros against all ones. Runs code of the file."""
    features = open_i3d(Path(os.environ[GOLDEN_FILE]), "videogpt", allow_code=True)
    black = np.zeros((8, frames, 64, 64, 3), np.uint8)
    distance = frechet_distance(features(black).astype(np.float64), features(black + 255).astype(np.float64))
    assert distance == pytest.approx(published, rel=1e-4)
