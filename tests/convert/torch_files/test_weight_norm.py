"""Weight normalisation is folded as PyTorch folds it, under both of its names; halves that do not fit are told."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from con360av_jax.errors import CheckpointError
from convert.inspection import inspect_path, render
from convert.part_source import Tensors
from convert.rules import to_jax, under
from convert.tables.vocoder import VOCODER
from convert.torch_files.folders import Sources, component
from convert.torch_files.weight_norm import fold_weight_norm
from convert.torch_files.weights import open_weights, write_weights
from convert.verify.torch_networks import build
from tests.support.original_networks import HIFIGAN, Json, arrays, original, randomise, torch, wanted

TINY: Json = {
    **HIFIGAN, "model_in_dim": 4, "upsample_initial_channel": 16, "upsample_rates": [4, 3],
    "upsample_kernel_sizes": [8, 7], "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 2]] * 2,
}  # fmt: skip
CONVOLUTIONS = 2 + 2 + 2 * 2 * 2 * 2
# PyTorch adds up the squares in float32, in an order that depends on the processor: eight units in the last place.
FLOAT32 = 1e-6


def normalised(style: str) -> Any:
    """A random vocoder with weight normalisation, its magnitudes changed since as training changes them."""
    model = original(TINY)
    if style == "parametrizations":
        model.apply_weight_norm()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # says that the other style is newer
            for module in convolutions(model):
                torch.nn.utils.weight_norm(module)
    randomise(model, seed=1)
    return model


def convolutions(model: Any) -> list[Any]:
    kinds = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)
    return [module for module in model.modules() if isinstance(module, kinds)]


def removed(model: Any) -> dict[str, np.ndarray]:
    """Tensors after PyTorch has removed the weight normalisation (in place)."""
    for module in convolutions(model):
        if hasattr(module, "parametrizations"):
            torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
        else:
            torch.nn.utils.remove_weight_norm(module)
    return arrays({name: tensor.detach() for name, tensor in model.state_dict().items()})


def assert_near(found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(reference)
    for name, tensor in reference.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        np.testing.assert_allclose(found[name], tensor, rtol=FLOAT32, atol=0, err_msg=name)


@pytest.fixture(params=["parametrizations", "hooks"])
def style(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_folded_file_equals_what_pytorch_leaves_after_removing(style: str, ending: str, tmp_path: Path):
    model = normalised(style)
    model.save_pretrained(tmp_path)
    if ending == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    endings = (".weight_g", ".weight_v") if style == "hooks" else (".weight.original0", ".weight.original1")
    stored = open_weights(tmp_path)
    assert sum(name.endswith(endings) for name in stored) == 2 * CONVOLUTIONS
    weights = component(tmp_path).weights
    reference = removed(model)
    assert_near(weights, reference)
    assert [(info.shape, info.dtype) for info in weights.infos.values()] == [
        (x.shape, x.dtype) for x in map(weights.__getitem__, weights)
    ]
    assert weights.path == tmp_path and {info.file for info in weights.infos.values()} == {
        info.file for info in stored.infos.values()
    }
    assert_near(weights.select("conv_pre"), {name: reference[f"conv_pre.{name}"] for name in ("weight", "bias")})


def test_a_folded_weight_is_the_exact_one_rounded_once(tmp_path: Path):
    random = np.random.default_rng(0)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16, np.float64):
        g, v = random.uniform(0.5, 2, (8, 1, 1)).astype(dtype), random.normal(0, 0.1, (8, 64, 7)).astype(dtype)
        write_weights(path := tmp_path / "a.safetensors", {"a.weight_g": g, "a.weight_v": v}, {})
        wide_g, wide_v = (torch.from_numpy(x.astype(np.float64)) for x in (g, v))
        exact = (wide_g * wide_v / torch.linalg.vector_norm(wide_v, dim=(1, 2), keepdim=True)).numpy()
        found = fold_weight_norm(open_weights(path))["a.weight"]
        assert found.dtype == dtype
        if dtype == np.float64:
            np.testing.assert_allclose(found, exact, rtol=1e-15, atol=0)
        else:
            assert found.tobytes() == exact.astype(dtype).tobytes()


def test_base_reads_a_folded_file_and_notes_the_origin_of_each_weight(style: str, tmp_path: Path):
    model = normalised(style)
    model.save_pretrained(tmp_path)
    tensors = Tensors({"vocoder": component(tmp_path)})
    params = to_jax(tensors, under("vocoder", "", VOCODER), wanted(TINY))
    assert_near(params, to_jax(removed(model), VOCODER, wanted(TINY)))
    origin = tensors.origins["vocoder.upsampler.0.weight"]
    assert (origin["file"], origin["key"]) == (str(tmp_path / "model.safetensors"), "upsampler.0.weight")


def test_verify_fills_the_plain_original_and_it_sounds_the_same(style: str, tmp_path: Path):
    model = normalised(style)
    model.save_pretrained(tmp_path)
    sources = Sources(components={"vocoder": component(tmp_path)}, tokenizers={}, schedulers={}, origin="a test")
    plain = build("vocoder", "vocoder", sources)
    assert not any("original0" in name or "weight_g" in name for name in plain.state_dict())
    with torch.no_grad():
        mel = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(plain(mel), model(mel), rtol=1e-4, atol=1e-5)


def test_inspection_tells_that_weights_will_be_folded(style: str, tmp_path: Path):
    model = normalised(style)
    model.save_pretrained(tmp_path)
    (found,) = inspect_path(tmp_path)
    assert (found.family, found.unmatched, found.folded) == ("vocoder", (), CONVOLUTIONS)
    assert found.tensors == len(model.state_dict())
    (cell,) = render([found]).columns[-1].cells
    assert f"weight normalisation of {CONVOLUTIONS} weights" in str(cell)
    write_weights(tmp_path / "model.safetensors", removed(model), {})
    (plain,) = inspect_path(tmp_path)
    assert (plain.family, plain.unmatched, plain.folded) == ("vocoder", (), 0)


def test_inspection_leaves_the_normalised_weights_of_strangers_alone(tmp_path: Path):
    # As in wav2vec 2.0: the norm goes over other axes there.
    convolution = "wav2vec2.encoder.pos_conv_embed.conv"
    stranger = {f"{convolution}.weight_g": np.ones((1, 1, 5)), f"{convolution}.weight_v": np.ones((4, 2, 5))}
    stranger |= {f"wav2vec2.{name}": np.ones(4) for name in ("masked_spec_embed", "feature_projection.projection.bias")}
    write_weights(path := tmp_path / "model.safetensors", stranger, {})
    (found,) = inspect_path(path)
    assert (found.family, sorted(found.unmatched), found.folded) == ("unknown", sorted(stranger), 0)


G, V = np.ones((4, 1, 1), np.float32), np.ones((4, 2, 3), np.float32)
OLD, NEW = ("a.weight_g", "a.weight_v"), tuple(f"a.parametrizations.weight.original{i}" for i in (0, 1))


@pytest.mark.parametrize(("tensors", "line"), [
    ({OLD[0]: G}, "a.weight is there as a.weight_g without a.weight_v"),
    ({OLD[1]: V}, "a.weight is there as a.weight_v without a.weight_g"),
    ({NEW[0]: G}, f"a.weight is there as {NEW[0]} without {NEW[1]}"),
    ({NEW[1]: V}, f"a.weight is there as {NEW[1]} without {NEW[0]}"),
    ({OLD[0]: G, NEW[1]: V}, f"{NEW[1]}, {OLD[0]} without {OLD[1]}, {NEW[0]}"),
    ({OLD[0]: G, OLD[1]: V, "a.weight": V}, "a.weight is there as a.weight, a.weight_g, a.weight_v"),
    ({OLD[0]: G, OLD[1]: V, NEW[0]: G, NEW[1]: V}, f"a.weight is there as {NEW[0]}, {NEW[1]}, a.weight_g"),
    ({OLD[0]: G[:3], OLD[1]: V}, "a.weight_g has the shape (3, 1, 1), wanted (4, 1, 1)"),
    ({OLD[0]: G[:, 0, 0], OLD[1]: V}, "a.weight_g has the shape (4,), wanted (4, 1, 1)"),
    ({OLD[0]: V[:1], OLD[1]: V}, "a.weight_g has the shape (1, 2, 3), wanted (4, 1, 1)"),
    ({OLD[0]: G, OLD[1]: V[0, 0, 0]}, "a.weight_g has the shape (4, 1, 1), wanted ()"),
    ({OLD[0]: G.astype(np.float16), OLD[1]: V}, "a.weight is there as float16 and float32, wanted twice the same"),
    ({OLD[0]: G.astype(np.int32), OLD[1]: V.astype(np.int32)}, "a.weight is there as int32 and int32"),
])  # fmt: skip
def test_halves_that_do_not_fit_are_told(tensors: dict[str, np.ndarray], line: str, tmp_path: Path):
    write_weights(path := tmp_path / "model.safetensors", tensors, {})
    with pytest.raises(CheckpointError, match=re.escape(line)) as caught:
        component(path)
    assert str(path) in str(caught.value)


def test_all_weights_that_do_not_fit_are_told_at_once(tmp_path: Path):
    write_weights(path := tmp_path / "a.safetensors", {"a.weight_g": G, "b.weight_v": V}, {})
    with pytest.raises(CheckpointError, match=r"a\.weight is there .*; b\.weight is there"):
        component(path)


@pytest.mark.parametrize("broken", ["zero", "nan", "infinite g", "infinite v"])
def test_what_cannot_be_folded_into_numbers_is_told_by_name(broken: str, tmp_path: Path):
    g, v = G.copy(), V.copy()
    bad = {"zero": 0.0, "nan": np.nan}.get(broken, np.inf)
    (g if broken == "infinite g" else v)[1] = bad
    write_weights(path := tmp_path / "a.safetensors", {"a.weight_g": g, "a.weight_v": v}, {})
    with pytest.raises(CheckpointError, match=r"a\.weight: 6 of 24 values are NaN or infinite"):
        _ = Tensors({"vocoder": component(path)})["vocoder.a.weight"]


def test_weights_without_normalisation_stay_what_they_are(tmp_path: Path):
    write_weights(path := tmp_path / "a.safetensors", {"a.weight": V, "scale": G}, {})
    weights = open_weights(path)
    assert fold_weight_norm(weights) is weights
