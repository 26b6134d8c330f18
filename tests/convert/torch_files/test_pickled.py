"""PyTorch's files give their exact bytes; what is corrupt, foreign or hostile is one clear line and never runs."""

import json
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from convert.torch_files.weights import open_weights
from tests.support.stored_tensors import assert_damage_is_told, assert_same, refusal, resident_bytes, tensors

if TYPE_CHECKING:
    from torch import Tensor

torch = pytest.importorskip("torch", reason="PyTorch's files are written by PyTorch: pip install -e '.[torch]'")


def torch_tensors() -> "dict[str, Tensor]":
    bits = {name: torch.from_numpy(x.view(np.uint16) if "bfloat" in name else x) for name, x in tensors().items()}
    return {name: x.view(torch.bfloat16) if "bfloat" in name else x for name, x in bits.items()}


@pytest.mark.parametrize("name", ["a.bin", "a.ckpt", "a.pt", "a.pth", "before_1.6.bin"])
def test_files_of_pytorch_give_the_same_bytes(tmp_path: Path, name: str):
    state, path = torch_tensors(), tmp_path / name
    state["float32.2"] = torch.nn.Parameter(state["float32.2"].T.contiguous().T)
    wrapped = [{"epoch": 3, "optimizer": {"lr": 0.1}, name: state} for name in ("state_dict", "model", "module")]
    for content in (state, *wrapped):
        torch.save(content, path, _use_new_zipfile_serialization=name.startswith("a"))
        assert_same(open_weights(path), tensors())


def test_only_plain_tensors_pass(tmp_path: Path):
    one, endless = torch.zeros(1), {}
    endless["state_dict"] = endless
    for content, line in (
        ({"a": one, "epoch": 3}, "epoch is a int"), ({"a": {"b": one}}, "a is a dict"), ([one], "holds a list"),
        (one, "holds a Tensor"), ({"a": torch.eye(2).to_sparse()}, "torch.sparse_coo"), (endless, "is a dict"),
        ({"a": one.to(torch.complex64)}, "complex64"), ({"a": one.expand(10**9, 10**3)}, "too small for"),
        ({"model": {"a": one}, "module": {"a": one}}, "several sets of weights"),
    ):  # fmt: skip
        torch.save(content, tmp_path / "a.bin")
        assert line in refusal(tmp_path / "a.bin")


class Hostile(str):
    """Makes a folder of this name where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (str(self),)


def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path):
    hostile, path = Hostile(tmp_path / "ran"), tmp_path / "model.bin"
    for zipped in (True, False):
        for content in (hostile, {"a": hostile}, {"state_dict": {"a": torch.zeros(1)}, "epoch": hostile}):
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            assert "mkdir, which could run code: refused" in refusal(path)
    for protocol in range(6):
        path.write_bytes(pickle.dumps(hostile, protocol))
        assert "refused" in refusal(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(hostile))
    assert (tmp_path / "ran").exists(), "it would not have run anyway"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_corrupted_anywhere_fails_in_one_line_or_opens(tmp_path: Path, zipped: bool):
    torch.save(torch_tensors(), path := tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    assert_damage_is_told(path)


def test_shards_are_one_set_in_the_order_of_the_index(tmp_path: Path):
    places = {name: f"pytorch_model-{number % 2}.bin" for number, name in enumerate(tensors())}
    for shard in set(places.values()):
        torch.save({name: x for name, x in torch_tensors().items() if places[name] == shard}, tmp_path / shard)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    weights = open_weights(tmp_path)
    assert list(weights) == list(tensors())
    assert [(x.dtype, x.shape) for x in weights.infos.values()] == [(x.dtype, x.shape) for x in tensors().values()]
    assert_same(weights, tensors())


def test_opening_a_large_file_and_reading_a_small_tensor_costs_no_memory(tmp_path: Path):
    torch.save({"big": torch.zeros(2**25), "small": torch.zeros(2)}, path := tmp_path / "a.bin")
    open_weights(path)  # imports what torch.load needs
    before = resident_bytes()
    weights = open_weights(path)
    assert weights.infos["big"].shape == (2**25,) and weights["small"].tolist() == [0, 0]
    assert weights["big"][2**24] == 0
    assert resident_bytes() - before < 50 * 2**20
