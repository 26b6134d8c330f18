"""SalViT360's network against independent formulations, and its windows over a segment; weights are random."""
# ruff: noqa: E402 -- imports that need torch come after asking for it

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from einops import reduce
from transformers import ResNetConfig

from con360av_jax.errors import ConfigError
from preprocess.cli import main
from preprocess.saliency import choose
from preprocess.saliency.choose import open_saliency
from preprocess.stages.segment import Segment, Window
from tests.support.panorama_files import standard_clip
from tests.support.tiny_config import TINY

torch = pytest.importorskip("torch", reason="SalViT360 runs in PyTorch: pip install -e '.[torch]'")

from torch import nn
from torch.nn.functional import interpolate, layer_norm, multi_head_attention_forward
from transformers import ResNetModel

from preprocess.saliency.salvit360.backend import open_salvit360, predicted_maps
from preprocess.saliency.salvit360.checkpoint import load_salvit360
from preprocess.saliency.salvit360.network import DecoderBlock, SalViT360
from preprocess.saliency.salvit360.resnet import fold_norms, resnet18
from preprocess.saliency.salvit360.transformer import Attention, Layer

pytestmark = pytest.mark.usefixtures("one_thread")


def randomise_norms(module: nn.Module) -> None:
    """Norms as after training: not 1 and 0."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.get_buffer("running_mean").normal_(0, 0.2)
            layer.get_buffer("running_var").uniform_(0.5, 2)
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.normal_(layer.weight, 1, 0.1)
            nn.init.normal_(layer.bias, 0, 0.1)


@pytest.fixture(scope="module")
def quick() -> SalViT360:
    """VSTA with one transformer layer and a pooling instead of ResNet-18: all that windows need."""
    torch.manual_seed(0)
    network = SalViT360("vsta").eval().requires_grad_(False)
    network.feature_extractor = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Conv2d(3, 512, 1))
    network.transformer.layer = network.transformer.layer[:1]
    return network


def frames(count: int, height: int = 48) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, 2 * height, 3), dtype=np.uint8)


def published_name(theirs: str) -> str:
    """transformers' name of a ResNet-18 weight in torchvision's numbering, by hand."""
    norm = theirs.replace("convolution", "conv").replace("normalization", "bn")
    if norm.startswith("embedder"):
        return norm.replace("embedder.embedder.conv", "0").replace("embedder.embedder.bn", "1")
    _, _, stage, _, block, part, *rest = norm.split(".")
    place = f"{int(stage) + 4}.{block}"
    if part == "shortcut":
        return f"{place}.downsample.{('conv', 'bn').index(rest[0])}.{rest[1]}"
    return f"{place}.{rest[1]}{int(rest[0]) + 1}.{rest[2]}"


def test_resnet18_equals_transformers_with_and_without_folded_norms():
    torch.manual_seed(1)
    config = ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2] * 4, layer_type="basic")
    theirs = ResNetModel(config).eval()
    randomise_norms(theirs)
    ours = resnet18().eval()
    ours.load_state_dict({published_name(name): value for name, value in theirs.state_dict().items()})
    pictures = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        wanted = theirs(pictures).last_hidden_state
        torch.testing.assert_close(ours(pictures), wanted, rtol=1e-5, atol=1e-5)
        fold_norms(ours)
        torch.testing.assert_close(ours(pictures), wanted, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ours.modules())


def torch_attention(x, attention: Attention):
    """(batch, token, 512) by PyTorch's own function, which wants tokens first."""
    tokens = x.transpose(0, 1)
    output, _ = multi_head_attention_forward(
        *(tokens, tokens, tokens, 512, 8, attention.QKV.weight, torch.zeros(3 * 512), None, None, False, 0.0),
        *(attention.proj.weight, attention.proj.bias),
        training=False,
        need_weights=False,
    )
    return output.transpose(0, 1)


def test_a_layer_attends_over_time_then_over_the_sphere_then_feeds_forward():
    torch.manual_seed(2)
    layer = Layer().eval().requires_grad_(False)
    randomise_norms(layer)
    given = torch.randn(1, 8, 3, 512)
    x = given[0].clone()

    def normed(norm: nn.LayerNorm, values):
        return layer_norm(values, (512,), norm.weight, norm.bias, 1e-5)

    tracks = [torch_attention(normed(layer.temp_norm_layer, x[None, :, t]), layer.temp_attn)[0] for t in range(3)]
    x = x + torch.stack(tracks, dim=1)
    moments = [torch_attention(normed(layer.spatial_norm_layer, x[None, f]), layer.spatial_attn)[0] for f in range(8)]
    x = x + torch.stack(moments)
    feed = {name.removeprefix("FFN."): value for name, value in layer.state_dict().items()}
    hidden = layer_norm(x, (512,), feed["0.weight"], feed["0.bias"], 1e-5)
    hidden = hidden @ feed["1.layers.0.weight"].T + feed["1.layers.0.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    x = x + hidden @ feed["1.layers.3.weight"].T + feed["1.layers.3.bias"]
    torch.testing.assert_close(layer(given)[0], x, rtol=1e-4, atol=1e-5)


def test_a_decoder_block_convolves_each_tangent_alone_and_norms_all_together():
    torch.manual_seed(3)
    block = DecoderBlock(4, 2, 7, 5, upsample=True).requires_grad_(False)
    randomise_norms(block)
    kernel, bias, scale, shift = (
        block.state_dict()[f"block.{name}"] for name in ("0.weight", "0.bias", "1.weight", "1.bias")
    )
    x = torch.randn(1, 4, 7, 7, 5)
    alone = [nn.functional.conv2d(x[..., t], kernel[..., 0], bias, padding=1) for t in range(5)]
    normed = layer_norm(torch.stack(alone, dim=-1), (2, 7, 7, 5), scale, shift, 1e-5).clamp(min=0)
    wanted = [interpolate(normed[..., t], scale_factor=2, mode="bilinear", align_corners=False) for t in range(5)]
    torch.testing.assert_close(block(x), torch.stack(wanted, dim=-1), rtol=1e-4, atol=1e-5)


def test_maps_do_not_depend_on_how_many_frames_are_computed_at_once(quick: SalViT360):
    given = frames(9)
    wanted, *others = (np.stack(list(predicted_maps(quick, given, "cpu", count))) for count in (9, 1, 4))
    assert wanted.shape == (9, 480, 960)
    assert wanted.std() > 0
    for maps in others:
        np.testing.assert_allclose(maps, wanted, rtol=1e-4, atol=1e-5)


def test_a_map_depends_on_its_own_frame_and_the_seven_before_it(quick: SalViT360):
    given = frames(11)
    changed = given.copy()
    changed[2] = 255 - changed[2]
    one, other = (np.stack(list(predicted_maps(quick, frames, "cpu"))) for frames in (given, changed))
    differs = np.abs(one - other).max(axis=(1, 2)) > 1e-4 * one.max()
    assert differs.tolist() == [2 <= t <= 9 for t in range(11)]


def test_before_the_first_frame_stands_the_first_frame(quick: SalViT360):
    given = frames(2)
    repeated = np.concatenate([np.repeat(given[:1], 7, axis=0), given])
    maps, late = (np.stack(list(predicted_maps(quick, frames, "cpu"))) for frames in (given, repeated))
    np.testing.assert_allclose(maps, late[-2:], rtol=1e-4, atol=1e-5)


def test_vac_is_the_mean_of_its_two_sets_of_tangents():
    torch.manual_seed(4)
    network = SalViT360("vac").eval().requires_grad_(False)
    network.transformer.layer = network.transformer.layer[:1]
    tokens = [torch.randn(1, 8, count, 512) for count in (18, 10)]
    maps = [torch.randn(1, 512, 7, 7, count) for count in (18, 10)]
    both = network.predict(tokens, maps)
    parts = []
    for silent in (1, 0):
        scale = network.get_parameter(f"decoders.{silent}.2.block.1.weight")
        kept = scale.clone()
        scale.zero_()
        parts.append(network.predict(tokens, maps))
        scale.copy_(kept)
    assert all(part.max() > 0 for part in parts)
    torch.testing.assert_close(both, parts[0] + parts[1], rtol=1e-5, atol=1e-6)


def test_the_backend_gives_the_loaded_networks_maps_by_area_and_stretched_over_the_segment(tmp_path: Path):
    torch.manual_seed(5)
    network = SalViT360("vsta").eval()
    randomise_norms(network)
    torch.save({"model": network.state_dict(), "epoch": 5}, tmp_path / "a.pt")
    backend, plain = open_salvit360(tmp_path / "a.pt", "cpu"), load_salvit360(tmp_path / "a.pt")
    clip = standard_clip(Path("a.mp4"), height=48)
    segment = Segment(window=Window(clip=clip, index=0, start=0.0), frames=frames(1), audio=np.zeros(1, np.float32))
    maps = backend(segment, TINY)
    wanted = next(predicted_maps(plain, segment.frames, "cpu"))
    wanted = reduce(wanted, "(row height) (column width) -> row column", "mean", row=16, column=32)
    wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    assert (maps.shape, maps.dtype) == ((1, 16, 32), np.float32)
    # Norms folded into convolutions and another memory layout: the same up to rounding, which is stretched with them.
    np.testing.assert_allclose(maps[0], wanted, atol=1e-3)


def test_what_the_backend_lacks_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    with pytest.raises(ConfigError, match="--saliency-weights FILE"):
        open_saliency("salvit360", tmp_path, None, "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU for --saliency-device cuda"):
        open_saliency("salvit360", tmp_path, tmp_path / "a.pt", "cuda")
    arguments = ["run", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main([*arguments, "--saliency", "salvit360", "--saliency-weights", str(tmp_path / "a.pt")]) == 2
    assert "is no file; give SalViT360's published checkpoint" in capsys.readouterr().err
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[torch\]'"):
        open_saliency("salvit360", tmp_path, tmp_path / "a.pt", "cpu")


def test_choosing_another_backend_does_not_load_torch():
    script = (
        "import sys\n"
        "from preprocess.saliency.choose import open_saliency\n"
        "open_saliency('contrast', None, None, 'cpu')\n"
        "assert 'torch' not in sys.modules\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
