"""Published folders become a pretrained folder and PyTorch folders again: every byte, both ways, or one clear error."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.base.parts import PARTS, part_factory
from con360av_jax.base.pretrained import open_pretrained, write_pretrained
from con360av_jax.base.tokenizer import train_tokenizers
from con360av_jax.config.files import load_config_json
from con360av_jax.config.settings import Config
from con360av_jax.errors import CheckpointError, ConfigError
from con360av_jax.models import functional
from con360av_jax.models.functional import flatten, unflatten
from convert.base import convert_base
from convert.cli import main
from convert.export import export
from convert.part_source import Tensors
from convert.torch_files.folders import baseline, published
from convert.torch_files.weights import open_weights, write_weights
from tests.support.published_folders import animatediff_name, image_unet_json, motion_adapter_json

torch = pytest.importorskip("torch", reason="export asks the original libraries for their names")

NETWORKS = ("unet_a", "unet_v", "unet_svg", "vae_a", "vae_v", "text_encoder_a", "text_encoder_v", "vocoder")


def _random(config: Config, part: str, number: int) -> functional.Params:
    """Values that no initialiser would give, so that nothing can be right by being left alone."""
    random = np.random.default_rng(number)
    shapes = flatten(functional.abstract(part_factory(part, config))[1])
    return unflatten({path: random.standard_normal(leaf.shape).astype(np.float32) for path, leaf in shapes.items()})


@pytest.fixture(scope="module")
def base(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained folder whose every parameter is noise."""
    folder = tmp_path_factory.mktemp("random") / "base"
    parts = ((part, _random(tiny, part, number)) for number, part in enumerate(PARTS))
    write_pretrained(folder, tiny, parts, train_tokenizers(tiny, 0), origin="noise")
    return folder


@pytest.fixture(scope="module")
def pipeline(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as the baseline's pipeline in PyTorch's layouts."""
    folder = tmp_path_factory.mktemp("torch") / "pipeline"
    export(base, folder)
    return folder


@pytest.fixture
def copy(pipeline: Path, tmp_path: Path) -> Path:
    """A pipeline that a test may damage."""
    return Path(shutil.copytree(pipeline, tmp_path / "pipeline"))


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every tensor of a pipeline."""
    return {
        f"{network}.{name}": hashlib.sha256(np.ascontiguousarray(tensor).tobytes()).hexdigest()
        for network in NETWORKS
        for name, tensor in open_weights(folder / network).items()
    }


def parameters(folder: Path) -> dict[str, np.ndarray]:
    opened = open_pretrained(folder)
    return {f"{part}/{path}": np.asarray(leaf) for part in PARTS for path, leaf in flatten(opened.params(part)).items()}


def assert_same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], except_for: tuple[str, ...] = ()):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if not name.startswith(except_for):
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def assert_nothing_left(folder: Path, names: set[str]):
    assert {path.name for path in folder.iterdir()} == names


def test_every_tensor_comes_back_byte_for_byte(tiny: Config, base: Path, pipeline: Path, tmp_path: Path):
    config = convert_base(baseline(pipeline), tmp_path / "base", config=tiny)
    # Map Encoder and FiLM are Con360-AV's own: the baseline does not have them.
    assert_same(parameters(tmp_path / "base"), parameters(base), ("joint/map_encoder", "joint/film"))
    assert config.model == tiny.model
    assert config.schedule == tiny.schedule
    export(tmp_path / "base", tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(pipeline)


def test_the_original_libraries_load_what_was_exported(pipeline: Path):
    import diffusers
    import transformers

    for library, kind, network in (
        (diffusers, "UNet2DConditionModel", "unet_a"),
        (diffusers, "UNetMotionModel", "unet_v"),
        (diffusers, "AutoencoderKL", "vae_a"),
        (diffusers, "AutoencoderKL", "vae_v"),
        (transformers, "ClapTextModelWithProjection", "text_encoder_a"),
        (transformers, "CLIPTextModel", "text_encoder_v"),
        (transformers, "SpeechT5HifiGan", "vocoder"),
    ):
        model, notes = getattr(library, kind).from_pretrained(pipeline / network, output_loading_info=True)
        assert not notes["missing_keys"], network
        assert not notes["unexpected_keys"], network
        stored = open_weights(pipeline / network)
        for name, tensor in model.state_dict().items():
            if name in stored:
                np.testing.assert_array_equal(tensor.numpy(), stored[name], err_msg=name)


def _split(base: Path, pipeline: Path, folder: Path) -> tuple[Path, Path, Path]:
    """The pipeline as AudioLDM, Stable Diffusion and motion module folders, saved by the original libraries."""
    import diffusers

    library: Any = diffusers
    audioldm, diffusion, motion = folder / "audioldm", folder / "sd15", folder / "motion"
    for suffix, folder_of_parts, parts in (
        ("a", audioldm, ("unet", "vae", "text_encoder", "tokenizer", "scheduler")),
        ("v", diffusion, ("vae", "text_encoder", "tokenizer", "scheduler")),
    ):
        for part in parts:
            shutil.copytree(pipeline / f"{part}_{suffix}", folder_of_parts / part)
    shutil.copytree(pipeline / "vocoder", audioldm / "vocoder")
    state = {name: torch.from_numpy(tensor.copy()) for name, tensor in open_weights(pipeline / "unet_v").items()}
    video = load_config_json(base / "config.json").model.unet_video
    unet: Any = library.UNet2DConditionModel.from_config(image_unet_json(video))
    unet.load_state_dict({name: tensor for name, tensor in state.items() if "motion_modules" not in name})
    unet.save_pretrained(diffusion / "unet", safe_serialization=False)
    modules = {name: tensor for name, tensor in state.items() if "motion_modules" in name}
    original = {f"module.{animatediff_name(name)}": tensor for name, tensor in modules.items()}
    torch.save({"epoch": 3, "state_dict": original}, folder / "mm.ckpt")
    adapter: Any = library.MotionAdapter.from_config(motion_adapter_json(video))
    adapter.load_state_dict(modules)
    adapter.save_pretrained(motion)
    return audioldm, diffusion, motion


def test_parts_as_published_give_the_same_parameters(tiny: Config, base: Path, pipeline: Path, tmp_path: Path):
    audioldm, diffusion, motion = _split(base, pipeline, tmp_path)
    convert_base(published(audioldm, diffusion, motion, pipeline / "unet_svg"), tmp_path / "base", config=tiny)
    assert_same(parameters(tmp_path / "base"), parameters(base), ("joint/map_encoder", "joint/film"))
    arguments = ["base", "--audioldm", audioldm, "--stable-diffusion", diffusion, "--motion", motion]
    config = tmp_path / "tiny.json"
    shutil.copy(base / "config.json", config)
    out = tmp_path / "without"
    assert main([*map(str, arguments), "--out", str(out), "--config", str(config), "--dtype", "bfloat16"]) == 0
    found, wanted = parameters(out), parameters(base)
    fresh = ("joint/map_encoder", "joint/film", "joint/connector", "joint/environment_encoder")
    assert_same(found, {name: value.astype(jnp.bfloat16) for name, value in wanted.items()}, fresh)
    report = {f"{row['part']}/{row['path']}": row for row in json.loads((out / "report.json").read_text())["tensors"]}
    assert all(bool(row["source"]) != name.startswith(fresh) for name, row in report.items())
    row = report["vocoder/conv_pre/kernel"]["source"]
    assert row["key"] == "conv_pre.weight"
    assert row["sha256"] == hashes(pipeline)["vocoder.conv_pre.weight"]


def test_the_original_motion_module_file_needs_its_eight_heads(
    tiny: Config, base: Path, pipeline: Path, tmp_path: Path
):
    """It has no config: heads, which no tensor shows, are AnimateDiff's own eight, here too many for 16 channels."""
    audioldm, diffusion, _ = _split(base, pipeline, tmp_path)
    # AnimateLCM's has the same layout without positional encodings.
    state = torch.load(tmp_path / "mm.ckpt", weights_only=True)["state_dict"]
    torch.save({name: tensor for name, tensor in state.items() if not name.endswith(".pe")}, tmp_path / "mm.ckpt")
    sources = published(audioldm, diffusion, tmp_path / "mm.ckpt", pipeline / "unet_svg")
    made = convert_base(sources, tmp_path / "base", config=tiny).model.unet_video
    assert made == replace(tiny.model.unet_video, motion_heads=8)
    assert_same(parameters(tmp_path / "base"), parameters(base), ("joint/map_encoder", "joint/film"))


def test_damage_is_one_error_and_leaves_nothing(tiny: Config, copy: Path, tmp_path: Path):
    weights = copy / "vae_v" / "diffusion_pytorch_model.safetensors"
    tensors = dict(open_weights(weights))
    name = "decoder.conv_in.weight"

    def refused(message: str, changed: dict[str, np.ndarray]):
        write_weights(weights, changed, {})
        with pytest.raises(CheckpointError, match=message):
            convert_base(baseline(copy), tmp_path / "base", config=tiny)
        assert_nothing_left(tmp_path, {"pipeline"})

    refused(f"{name}: 1 of .* values are NaN", tensors | {name: _with_nan(tensors[name])})
    refused("4 problems, nothing converted", {
        **{key: value for key, value in tensors.items() if key != name},
        "decoder.conv_in.bias": tensors["decoder.conv_in.bias"][:-1],
        "decoder.conv_in.gain": tensors[name],
        "surplus.weight": tensors[name],
    })  # fmt: skip


def test_a_table_that_is_not_the_formula_s_is_refused_by_name(tiny: Config, copy: Path, tmp_path: Path):
    weights = copy / "unet_v" / "diffusion_pytorch_model.safetensors"
    tensors = dict(open_weights(weights))
    tables = sorted(name for name in tensors if name.endswith(".pe"))

    def refused(message: str, changed: dict[str, np.ndarray]):
        write_weights(weights, tensors | changed, {})
        with pytest.raises(CheckpointError, match=message) as caught:
            convert_base(baseline(copy), tmp_path / "base", config=tiny)
        assert {name for name in tables if name in str(caught.value)} == changed.keys()
        assert_nothing_left(tmp_path, {"pipeline"})

    stacked = {name: np.concatenate([tensors[name][:, :16]] * 2, axis=1) for name in tables[1:3]}
    refused(r"2 tensors hold other numbers .*first at \[0, 16, 0\]: 0, wanted -0.2879", stacked)
    refused(
        "motion_max_seq_length is 32, but .* has the shape \\(1, 24, 16\\)", {tables[0]: tensors[tables[0]][:, :24]}
    )


def test_all_parts_are_known_to_fit_before_a_tensor_is_read(
    tiny: Config, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    weights = copy / "vocoder" / "model.safetensors"
    write_weights(weights, {**open_weights(weights), "surplus": np.zeros(1)}, {})
    reads: list[str] = []
    monkeypatch.setattr(Tensors, "__getitem__", lambda _, name: reads.append(name))
    with pytest.raises(CheckpointError, match=r"vocoder.surplus: no entry applies"):
        convert_base(baseline(copy), tmp_path / "base", config=tiny)
    assert reads == []


def _with_nan(tensor: np.ndarray) -> np.ndarray:
    tensor = tensor.copy()
    tensor.flat[3] = np.nan
    return tensor


def test_settings_that_do_not_fit_are_refused(tiny: Config, copy: Path, tmp_path: Path):
    path = copy / "vocoder" / "config.json"
    right = path.read_text()
    path.write_text(right.replace("16000", "22050"))
    with pytest.raises(ConfigError, match="sampling_rate=22050"):
        convert_base(baseline(copy), tmp_path / "base", config=tiny)
    path.write_text(right)
    path = copy / "unet_svg" / "config.json"
    path.write_text(path.read_text().replace("additive", "attn"))
    with pytest.raises(ConfigError, match="connector_in_type=attn, supported is additive"):
        convert_base(baseline(copy), tmp_path / "base", config=tiny)
    path.write_text(path.read_text().replace('"attn"', '"additive"'))
    shutil.rmtree(copy / "scheduler_a")
    with pytest.raises(CheckpointError, match="scheduler_config.json cannot be read"):
        convert_base(baseline(copy), tmp_path / "base", config=tiny)


def test_a_full_disk_is_one_line_and_leaves_nothing(base: Path, pipeline: Path, tmp_path: Path):
    """No file may grow beyond 64 KiB, which PyTorch's and Orbax's writers both meet."""
    config = tmp_path / "tiny.json"
    shutil.copy(base / "config.json", config)
    for arguments in (["base", "--baseline", str(pipeline), "--config", str(config)], ["export", str(base)]):
        limited = ["bash", "-c", 'ulimit -f 64; exec "$@"', "bash", sys.executable, "-m", "convert", *arguments]
        done = subprocess.run([*limited, "--out", str(tmp_path / "out")], capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        # Threads of Orbax's storage layer complain as well when it gives up, even within the line.
        assert "convert: error: " in done.stderr
        assert "cannot be written" in done.stderr
        assert_nothing_left(tmp_path, {"tiny.json"})


def test_too_small_a_disk_is_noticed_beforehand(base: Path, pipeline: Path, tiny: Config, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CheckpointError, match=r"needs \d.* [kM]B, 1.0 kB are free in .*: make room"):
        convert_base(baseline(pipeline), tmp_path / "base", config=tiny)
    with pytest.raises(CheckpointError, match="make room"):
        export(base, tmp_path / "torch")
    assert_nothing_left(tmp_path, set())


def test_a_parameter_without_a_published_name_is_not_dropped(tiny: Config, tmp_path: Path):
    """The table knows ten convolutions."""
    encoder = replace(tiny.model.map_encoder, widths=(8,) * 11, strides=(2, 2, *(1,) * 9))
    deep = replace(tiny, model=replace(tiny.model, map_encoder=encoder))
    parts = ((part, _random(deep, part, number)) for number, part in enumerate(PARTS))
    write_pretrained(tmp_path / "base", deep, parts, train_tokenizers(tiny, 0), origin="noise")
    with pytest.raises(CheckpointError, match=r"4 parameters have no published name, for example map_encoder/.*/10/"):
        export(tmp_path / "base", tmp_path / "torch")
    assert_nothing_left(tmp_path, {"base"})


def test_half_a_choice_of_sources_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["base", "--out", str(tmp_path / "base"), "--audioldm", str(tmp_path)]) == 2
    assert "give either --baseline, or all of" in capsys.readouterr().err
