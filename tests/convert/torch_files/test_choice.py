"""Folders with variants, shards and both formats give the file that is read, and the hub's the files to download."""

import json
from pathlib import Path

import numpy as np
import pytest

from convert.inspection import inspect_path
from convert.torch_files.choice import weight_files
from convert.torch_files.hub import wanted_files
from convert.torch_files.weights import open_weights, write_weights

TENSORS = {"conv_in.weight": np.ones((2, 1, 3, 3), np.float16), "conv_in.bias": np.ones(2, np.float16)}
NETWORK = "diffusion_pytorch_model"


def write_shards(folder: Path, index: str, shards: str) -> None:
    """One tensor in each shard, and their index."""
    places = {name: shards.format(number + 1) for number, name in enumerate(TENSORS)}
    for name, shard in places.items():
        write_weights(folder / shard, {name: TENSORS[name]}, {})
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.mark.parametrize(
    ("index", "shards"),
    [
        (f"{NETWORK}.safetensors.index.fp16.json", f"{NETWORK}.fp16-0000{{}}-of-00002.safetensors"),
        (f"{NETWORK}.safetensors.index.fp16.json", f"{NETWORK}-0000{{}}-of-00002.fp16.safetensors"),  # older diffusers
        ("model.safetensors.index.bf16.json", "model.bf16-0000{}-of-00002.safetensors"),
        (f"{NETWORK}.fp16.safetensors.index.json", f"{NETWORK}.fp16-0000{{}}-of-00002.safetensors"),
    ],
)
def test_shards_of_a_variant_are_read_by_their_index(tmp_path: Path, index: str, shards: str):
    write_shards(tmp_path, index, shards)
    # Another index came with its download, without shards.
    (tmp_path / f"{NETWORK}.safetensors.index.json").write_text('{"weight_map": {"a": "none.safetensors"}}')
    assert weight_files(tmp_path) == [tmp_path / index]
    assert {name: tensor.tolist() for name, tensor in open_weights(tmp_path).items()} == {
        name: tensor.tolist() for name, tensor in TENSORS.items()
    }
    (part,) = inspect_path(tmp_path)
    assert (part.tensors, part.dtypes, part.family) == (2, {"float16": 2}, "VAE")
    files = [f"unet/{path.name}" for path in sorted(tmp_path.iterdir())]
    assert {name for name in wanted_files([*files, "vae/model.bin"]) if name.endswith(".safetensors")} == {
        name for name in files if name.endswith(".safetensors")
    }


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([f"{NETWORK}.fp16.safetensors", f"{NETWORK}.fp16.bin"], f"{NETWORK}.fp16.safetensors"),
        ([f"{NETWORK}.fp16.safetensors", f"{NETWORK}.bin"], f"{NETWORK}.bin"),
        ([f"{NETWORK}.non_ema.safetensors", f"{NETWORK}.fp16.safetensors"], f"{NETWORK}.fp16.safetensors"),
        (["model.bf16.safetensors", "pytorch_model.fp16.bin"], "pytorch_model.fp16.bin"),
        (["mm_sd_v15.ckpt", "mm_sd_v15.safetensors"], "mm_sd_v15.safetensors"),
        (["mm_sd_v15.fp16.safetensors", "mm_sd_v15.ckpt"], "mm_sd_v15.ckpt"),
        (["AnimateLCM_sd15_t2v.ckpt", "AnimateLCM_sd15_t2v_lora.safetensors", f"{NETWORK}.fp16.safetensors"],
         f"{NETWORK}.fp16.safetensors"),
    ],
)  # fmt: skip
def test_full_precision_comes_first_then_safetensors(tmp_path: Path, names: list[str], chosen: str):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert weight_files(tmp_path) == [tmp_path / chosen]
    assert wanted_files(names) == [chosen]


def test_two_networks_in_one_folder_are_not_guessed_between(tmp_path: Path):
    for name in ("mm.ckpt", "mm_lora.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in weight_files(tmp_path)] == ["mm.ckpt", "mm_lora.safetensors"]
