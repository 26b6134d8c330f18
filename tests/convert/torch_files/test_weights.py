"""Weight files give their exact bytes, lazily; what is corrupt, foreign or hostile is one clear line and never runs."""

import errno
import json
import os
import resource
import struct
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from con360av_jax.config.settings import Config
from con360av_jax.errors import CheckpointError
from con360av_jax.train.checkpoint import CheckpointWriter, Progress
from convert.inspection import inspect_path, render
from convert.torch_files.weights import NAMED, open_weights, require_finite, weight_files, write_weights
from tests.support.stored_tensors import assert_damage_is_told, assert_same, refusal, resident_bytes, tensors


def raw(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file written by hand, lies included."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(start: int, end: int, shape: tuple[int, ...] = (2,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_what_is_written_reads_back_byte_for_byte(tmp_path: Path):
    write_weights(one := tmp_path / "one.safetensors", tensors(), {"format": "pt"})
    assert_same(weights := open_weights(one), tensors())
    assert safe_open(one, framework="np").metadata() == {"format": "pt"}
    write_weights(other := tmp_path / "other.safetensors", weights, {"format": "pt"})  # from a file that is read lazily
    assert one.read_bytes() == other.read_bytes()
    save_file(tensors(), other)
    assert_same(open_weights(other), tensors())
    write_weights(other, plain := {name: x.T for name, x in tensors().items() if "bfloat16" not in name}, {})
    assert_same(load_file(other), plain)


def test_a_safetensors_file_corrupted_anywhere_fails_in_one_line_or_opens(tmp_path: Path):
    write_weights(path := tmp_path / "a.safetensors", tensors(), {})
    assert_damage_is_told(path)


@pytest.mark.parametrize(("header", "size", "length"), [
    ({"a": entry(0, 8)}, 7, None), ({"a": entry(0, 8)}, 9, None), ({"a": entry(0, 8)}, 8, 10**15),
    ({"a": entry(0, 8)}, 8, 2**63), ({"a": entry(0, 8)}, 8, 5), ({"a": entry(0, 8, dtype="F99")}, 8, None),
    ({"a": entry(0, 8), "b": entry(4, 12)}, 12, None), ({"a": entry(0, 8), "b": entry(0, 8)}, 8, None),
    ({"a": entry(4, 12)}, 12, None), ({"a": entry(8, 0)}, 8, None), ({"a": entry(-8, 0)}, 8, None),
    ({"a": entry(0, 8, (3,))}, 8, None), ({"a": entry(0, 8, (2**62, 2**62))}, 8, None),
    ({"a": entry(0, 10**12, (10**12 // 4,))}, 8, None), ({"a": {"dtype": "F32"}}, 0, None), (b"[]", 0, None),
    (b"\xff", 0, None), (b"[" * 9999, 0, None), (b"", 0, None),
])  # fmt: skip
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, header: object, size: int, length: int | None):
    assert "corrupt" in refusal(raw(tmp_path / "model.safetensors", header, bytes(size), length))


def test_odd_offsets_are_read_and_odd_dtypes_named(tmp_path: Path):
    wanted = {"byte": np.full(1, 7, np.uint8), "a": np.arange(2, dtype=np.float32)}
    path, header = tmp_path / "a.safetensors", {"byte": entry(0, 1, (1,), "U8"), "a": entry(1, 9)}
    assert_same(open_weights(raw(path, header, b"".join(x.tobytes() for x in wanted.values()))), wanted)
    assert "a has dtype C64" in refusal(raw(path, {"a": entry(0, 16, dtype="C64")}, bytes(16)))


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin", "model.ckpt"])
def test_what_is_no_file_of_weights_is_told(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    assert "No such file" in refusal(tmp_path / name) and "No such file" in refusal(tmp_path / "model.txt")
    (tmp_path / name).write_bytes(b"")
    assert "is empty" in refusal(tmp_path / name)
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "git lfs pull" in refusal(tmp_path / name)
    (tmp_path / name).write_bytes(b"PK\3\4")
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    assert ("corrupt" if name == "model.safetensors" else "pip install -e '.[torch]'") in refusal(tmp_path / name)


def sharded(folder: Path) -> tuple[Path, dict[str, str]]:
    """An index, and what it says of its two shards."""
    places = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(tensors())}
    for shard in set(places.values()):
        write_weights(folder / shard, {name: x for name, x in tensors().items() if places[name] == shard}, {})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index, places


def test_shards_are_one_set_in_the_order_of_the_index_and_select_takes_a_prefix_off(tmp_path: Path):
    weights = open_weights(sharded(tmp_path)[0])
    assert list(weights) == list(tensors())
    assert [(x.dtype, x.shape) for x in weights.infos.values()] == [(x.dtype, x.shape) for x in tensors().values()]
    assert_same(weights, tensors())
    below = {name.removeprefix("int64."): x for name, x in tensors().items() if name.startswith("int64.")}
    assert_same(weights.select("int64"), below)
    assert weights.select("") is weights and not weights.select("int6") and "0" not in weights


def test_an_index_that_its_shards_do_not_fit_is_refused(tmp_path: Path):
    index, places = sharded(tmp_path)
    for weight_map, line in (
        (dict(list(places.items())[1:]), "float32.0 of model-0.safetensors is not in the index"),
        (places | {"stranger": "model-0.safetensors"}, "stranger is not in model-0.safetensors"),
        (places | {"a": "../model-0.safetensors"}, "outside the folder"), (None, "no index of shards"),
        (places | {"a": "/model-0.safetensors"}, "outside the folder"), (places | {"a": 3}, "no index of shards"),
        (places | {"a": index.name}, "no weight file"), (places | {"a": "no.bin"}, "no.bin cannot be read"),
    ):  # fmt: skip
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(CheckpointError, match=line):
            open_weights(tmp_path)
    index.write_text("[" * 10**5)
    assert "cannot be read" in refusal(index)


def test_a_folder_gives_its_usual_file_first_and_else_its_only_one(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    assert "found config.json; looked for diffusion_pytorch_model.safetensors" in refusal(tmp_path)
    write_weights(tmp_path / "any.safetensors", {"a": np.zeros(1)}, {})
    assert list(open_weights(tmp_path)) == ["a"] and open_weights(tmp_path).path == tmp_path
    (tmp_path / "other.ckpt").write_bytes(b"-")
    assert "several weight files: found any.safetensors, other.ckpt" in refusal(tmp_path)
    for name in reversed(NAMED):
        (tmp_path / name).write_bytes(b"")
        assert weight_files(tmp_path) == [tmp_path / name]


def test_opening_a_large_file_and_reading_a_small_tensor_costs_no_memory(tmp_path: Path):
    path = raw(tmp_path / "a.safetensors", {"big": entry(0, 2**33, (2**31,)), "small": entry(2**33, 2**33 + 8)})
    os.truncate(path, path.stat().st_size + 2**33 + 8)
    before = resident_bytes()
    weights = open_weights(path)
    assert weights.infos["big"].shape == (2**31,) and weights["small"].tolist() == [0, 0]
    assert weights["big"][2**30] == 0
    assert resident_bytes() - before < 50 * 2**20


def test_a_tensor_that_was_let_go_leaves_memory(tmp_path: Path):
    write_weights(path := tmp_path / "a.safetensors", {f"{i}": np.ones(2**22, np.float32) for i in range(8)}, {})
    weights, before = open_weights(path), resident_bytes()
    assert sum(float(weights[name].max()) for name in weights) == 8
    assert resident_bytes() - before < 40 * 2**20, "128 MiB were read, 16 at a time"


def test_weights_that_are_not_finite_are_named():
    require_finite("ids", np.ones(3, np.int64))
    for dtype, bad in product((np.float32, np.float16, ml_dtypes.bfloat16), (np.nan, np.inf, -np.inf)):
        require_finite("a", tensor := np.zeros((2, 3), dtype))
        tensor[1, 1] = bad
        with pytest.raises(CheckpointError, match="conv.weight: 1 of 6 values"):
            require_finite("conv.weight", tensor)


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any):
    write_weights(path := tmp_path / "model.safetensors", {"a": np.zeros(3)}, {})
    old, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the longest file fails halfway
    errors: list[BaseException] = [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(errors.pop()))
    for content, error, line in (
        (np.zeros(3, np.complex64), CheckpointError, "a has dtype"), (np.zeros(3), CheckpointError, "No space left"),
        (np.zeros(10**5), CheckpointError, "cannot be written"), (np.zeros(3), KeyboardInterrupt, None),
    ):  # fmt: skip
        with pytest.raises(error, match=line):
            write_weights(path, {"a": content}, {})
    with pytest.raises(CheckpointError, match="below.safetensors cannot be written"):
        write_weights(path / "below.safetensors", {}, {})
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


def test_inspection_names_parts_and_what_no_rule_applies_to(tmp_path: Path):
    unet = {"conv_in.weight": np.zeros((2, 1, 3, 3), np.float16), "time_embedding.linear_1.bias": np.zeros(2)}
    for name, content in {"unet": unet | {"odd": np.zeros(1)}, "other": {"odd": np.zeros(1)}}.items():
        (tmp_path / name).mkdir()
        write_weights(tmp_path / name / "model.safetensors", content, {})
    other, found = inspect_path(tmp_path)
    assert (found.name, found.family, found.unmatched) == ("unet", "U-Net", ("odd",))
    assert (found.tensors, found.parameters, found.dtypes) == (3, 21, {"float16": 1, "float64": 2})
    assert (other.family, other.unmatched) == ("unknown", ("odd",))
    assert inspect_path(tmp_path / "unet") == [found]
    assert inspect_path(*found.files) == [replace(found, name="model.safetensors")]
    assert len(render([found, other]).rows) == 2


def test_inspection_counts_our_own_folders(tiny: Config, tmp_path: Path):
    trees: Any = SimpleNamespace(params={"a": np.zeros((2, 3))}, ema={"a": np.zeros(1)}, opt_state=(np.zeros(5),))
    with CheckpointWriter(tmp_path, tiny) as writer:
        writer.save(trees, Progress(step=7, next_batch=7, seed=0))
    (tmp_path / "run.json").write_text("{}")
    for path in (tmp_path, tmp_path / "checkpoints" / "7"):
        assert [part.parameters for part in inspect_path(path)] == [6, 1, 5]
    (tmp_path / "report.json").write_text('{"tensors": [{"part": "vocoder", "shape": [2, 3], "dtype": "bfloat16"}]}')
    assert [(part.name, part.parameters) for part in inspect_path(tmp_path)] == [("vocoder", 6)]
