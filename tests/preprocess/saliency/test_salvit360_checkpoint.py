"""SalViT360's published files: exactly their keys are taken; anything else is one line that lists what is wrong."""
# ruff: noqa: E402 -- imports that need torch come after asking for it

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from con360av_jax.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

torch = pytest.importorskip("torch", reason="SalViT360 runs in PyTorch: pip install -e '.[torch]'")

from preprocess.saliency.salvit360.checkpoint import load_salvit360
from preprocess.saliency.salvit360.network import SalViT360
from tests.support.torch_weights import Hostile, norm_shapes, numbered

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED = {"vsta": (245, 37.97), "vac": (253, 38.66)}
EXTRAS = [
    f"decoder.{block}.block.{part}.{kind}" for block in (0, 1, 2) for part in (0, 1) for kind in ("weight", "bias")
]


def published_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    """Every key of a published file and its shape, written from what is known of the files and not from our network."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, *shape: int) -> None:
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape})

    def convolved(conv: str, bn: str, *shape: int) -> None:
        shapes[f"feature_extractor.{conv}.weight"] = shape
        shapes.update(norm_shapes(f"feature_extractor.{bn}", shape[0]))

    convolved("0", "1", 64, 3, 7, 7)
    for stage, (before, width) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), start=4):
        convolved(f"{stage}.0.conv1", f"{stage}.0.bn1", width, before, 3, 3)
        for place in ("0.conv2", "1.conv1", "1.conv2"):
            convolved(f"{stage}.{place}", f"{stage}.{place.replace('conv', 'bn')}", width, width, 3, 3)
        if stage > 4:
            convolved(f"{stage}.0.downsample.0", f"{stage}.0.downsample.1", width, before, 1, 1)
    norm("resnet_layernorm", 512, 7, 7)
    shapes.update({"posemb.posemb.0.weight": (16, 5, 3, 3), "posemb.posemb.3.weight": (32, 16, 3, 3)})
    norm("posemb.posemb.1", 16, 7, 7)
    norm("posemb.posemb.4", 32, 4, 4)
    stacks = {"vsta": {"decoder": 18}, "vac": {"decoders.0": 18, "decoders.1": 10}}[variant]
    widths = {"vsta": ((512, 128, 7), (128, 32, 7), (32, 8, 14), (8, 2, 28))}.get(variant)
    for stack, tangents in stacks.items():
        for number, (before, width, size) in enumerate(widths or ((512, 128, 7), (128, 32, 7), (32, 2, 14))):
            place = f"{stack}.{number}.block"
            shapes.update({f"{place}.0.weight": (width, before, 3, 3, 1), f"{place}.0.bias": (width,)})
            norm(f"{place}.1", width, size, size, tangents)
    shapes.update({"transformer.tmp_posemb": (1, 8, 512), "transformer.sph_posemb.weight": (512, 980)})
    shapes["transformer.sph_posemb.bias"] = (512,)
    norm("transformer.norm", 512)
    for layer in (f"transformer.layer.{number}" for number in range(6)):
        for kind in ("temp", "spatial"):
            norm(f"{layer}.{kind}_norm_layer", 512)
            shapes.update(
                {f"{layer}.{kind}_attn.QKV.weight": (1536, 512), f"{layer}.{kind}_attn.proj.weight": (512, 512)}
            )
            shapes[f"{layer}.{kind}_attn.proj.bias"] = (512,)
        norm(f"{layer}.FFN.0", 512)
        shapes.update({f"{layer}.FFN.1.layers.0.weight": (2048, 512), f"{layer}.FFN.1.layers.0.bias": (2048,)})
        shapes.update({f"{layer}.FFN.1.layers.3.weight": (512, 2048), f"{layer}.FFN.1.layers.3.bias": (512,)})
    return shapes


def weights(variant: str) -> "dict[str, Tensor]":
    return numbered(published_shapes(variant), 100)


def save(path: Path, model: object, prefix: str = "") -> Path:
    named = {prefix + name: value for name, value in model.items()} if isinstance(model, dict) else model
    torch.save(
        {"model": named, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "scheduler": {}, "epoch": 9}, path
    )
    return path


@pytest.mark.parametrize("variant", ["vsta", "vac"])
def test_the_network_has_the_published_tensors_and_parameters(variant):
    with torch.device("meta"):
        network = SalViT360(variant)
    state = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    count, millions = PUBLISHED[variant]
    assert state == published_shapes(variant)
    assert len(state) == count
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(("variant", "prefix"), [("vsta", "module."), ("vac", "module."), ("vac", "")])
def test_every_weight_of_a_published_file_comes_to_its_own_place(tmp_path: Path, variant: str, prefix: str):
    given = weights(variant)
    loaded = load_salvit360(save(tmp_path / "a.pt", given, prefix)).state_dict()
    assert set(loaded) == set(given)
    assert all(torch.equal(loaded[name], given[name]) for name in given)


def test_half_precision_files_become_float32(tmp_path: Path):
    given = {name: value.half() if value.is_floating_point() else value for name, value in weights("vsta").items()}
    loaded = load_salvit360(save(tmp_path / "a.pt", given))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_the_twelve_known_extras_of_vac_are_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    extras = dict.fromkeys(EXTRAS, torch.ones(3))
    loaded = load_salvit360(save(tmp_path / "a.pt", weights("vac") | extras, "module."))
    assert not set(loaded.state_dict()) & set(EXTRAS)
    (line,) = caplog.messages
    assert all(name in line for name in EXTRAS)


def test_one_error_lists_everything_that_is_wrong(tmp_path: Path):
    given: dict[str, object] = {**weights("vac"), **dict.fromkeys([*EXTRAS, "decoder.3.block.0.weight"], torch.ones(3))}
    del given["transformer.norm.bias"]
    given |= {
        "transformer.tmp_posemb": torch.zeros(1, 16, 512),
        "resnet_layernorm.bias": torch.full((512, 7, 7), torch.nan),
        "transformer.norm.weight": torch.ones(512, dtype=torch.int64),
        "feature_extractor.1.bias": "text",
    }
    with pytest.raises(CheckpointError) as caught:
        load_salvit360(save(tmp_path / "a.pt", given, "module."))
    message = str(caught.value)
    for part in (
        "(vac), 6 problems",
        "decoder.3.block.0.weight is unexpected",
        "transformer.norm.bias is missing",
        "transformer.tmp_posemb has shape (1, 16, 512), wanted (1, 8, 512)",
        "resnet_layernorm.bias holds NaN or infinity",
        "transformer.norm.weight is torch.int64, wanted torch.float32",
        "feature_extractor.1.bias is a str, not a plain tensor",
    ):
        assert part in message
    assert "\n" not in message


def test_a_hostile_file_is_refused_and_nothing_of_it_runs(tmp_path: Path):
    folder = tmp_path / "made"
    with pytest.raises(CheckpointError, match="asks for .*mkdir, which could run code: refused"):
        load_salvit360(save(tmp_path / "a.pt", {"a": Hostile(folder)}))
    assert not folder.exists()


@pytest.mark.parametrize("percent", [0, 1, 50, 99])
def test_a_file_cut_off_is_one_line(tmp_path: Path, percent: int):
    path = save(tmp_path / "a.pt", weights("vsta"))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(CheckpointError, match=r"a\.pt .*get it again") as caught:
        load_salvit360(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ([1], "no weights by name"),
        ({"epoch": 1}, "no weights by name"),
        ({"model": {"a": torch.ones(1)}}, "neither decoder"),
    ],
)
def test_files_of_something_else_are_told_apart(tmp_path: Path, content: object, line: str):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=line):
        load_salvit360(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="is no file"):
        load_salvit360(tmp_path / "b.pt")
