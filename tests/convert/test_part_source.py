"""Conversion reads a tensor when it is needed, once everything is known to fit, and keeps none."""

import gc
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.errors import CheckpointError
from con360av_jax.models.functional import flatten
from convert.part_source import FreshAdditions, Tensors, initial_additions
from convert.rules import Rule, conv2d, linear, pointwise, same, to_jax, vector
from convert.torch_files.folders import Component
from convert.torch_files.weights import TensorInfo, open_weights, write_weights

TABLE = (Rule(r"(a|b)\.weight", r"\1.kernel", linear), Rule(r"(a|b)\.bias", r"\1.bias"))
SHAPES = {"b.weight": (3, 2), "b.bias": (3,), "a.weight": (4, 3), "a.bias": (4,)}
WANTED = {"a/bias": (4,), "a/kernel": (3, 4), "b/bias": (3,), "b/kernel": (2, 3)}


@dataclass
class Headers(Mapping[str, np.ndarray]):
    """A source that tells shapes for nothing and notes every tensor that is read, and which of them live."""

    shapes: Mapping[str, tuple[int, ...]]
    reads: list[str] = field(default_factory=list)
    alive: set[str] = field(default_factory=set)

    @property
    def infos(self) -> dict[str, TensorInfo]:
        return {
            name: TensorInfo(file=Path("file"), shape=shape, dtype="float32") for name, shape in self.shapes.items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = np.random.default_rng(len(name)).standard_normal(self.shapes[name])
        self.reads.append(name)
        self.alive.add(name)
        weakref.finalize(tensor, self.alive.discard, name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def test_nothing_is_read_where_something_does_not_fit():
    source = Headers({**SHAPES, "b.weight": (2, 3), "a.bias": (5,), "stranger": (1,)})
    with pytest.raises(CheckpointError, match=r"3 problems.*stranger.*\(3, 2\) given, \(2, 3\) wanted.*\(5,\) given"):
        to_jax(source, TABLE, WANTED)
    assert source.reads == []


def test_each_tensor_is_read_when_asked_for_and_not_kept():
    source = Headers(SHAPES)
    converted = to_jax(source, TABLE, WANTED)
    assert list(converted) == list(WANTED)
    assert "a/bias" in converted
    assert "c/bias" not in converted
    assert source.reads == []
    for path, shape in WANTED.items():
        tensor = converted[path]
        assert tensor.shape == shape
        np.testing.assert_array_equal(tensor, to_jax(dict(source), TABLE, WANTED)[path])
        source.reads.clear()
        del tensor
        gc.collect()
        assert not source.alive
    assert converted["b/kernel"].flags.c_contiguous
    assert source.reads == ["b.weight"]


@pytest.mark.parametrize("layout", [linear, conv2d, pointwise, vector, same])
def test_a_shape_that_the_layout_cannot_hold_is_a_problem_like_others(layout):
    source = {"a": np.zeros((2, 3, 4)), "stranger": np.zeros(1)}
    with pytest.raises(CheckpointError, match=r"2 problems.*a -> a: shape .*, \(7,\) wanted"):
        to_jax(source, [Rule("a", "a", layout)], {"a": (7,)})


def test_shapes_are_those_of_the_tensors_whatever_the_layout():
    source = Headers({"conv": (4, 3, 2, 5), "point": (4, 3, 1, 1), "norm": (6, 1, 1), "none": (0, 3)})
    table = (Rule("conv", "conv", conv2d), Rule("point", "point", pointwise), Rule("norm", "norm", vector),
             Rule("none", "none", linear))  # fmt: skip
    wanted = {"conv": (2, 5, 3, 4), "point": (3, 4), "norm": (6,), "none": (3, 0)}
    assert {path: tensor.shape for path, tensor in to_jax(source, table, wanted).items()} == wanted


def test_a_files_header_is_enough_and_what_is_read_is_noted(tmp_path: Path):
    file = tmp_path / "a.safetensors"
    write_weights(file, dict(Headers(SHAPES)), {})
    tensors = Tensors({"net": Component(path=file, weights=open_weights(file))})
    table = [Rule(rf"net\.{rule.pattern}", rule.target, rule.layout) for rule in TABLE]
    converted = to_jax(tensors, table, WANTED)
    assert tensors.origins == {}
    stored = open_weights(file)["a.weight"]
    np.testing.assert_array_equal(converted["a/kernel"], stored.T)
    assert tensors.origins.keys() == {"net.a.weight"}
    assert tensors.origins["net.a.weight"]["key"] == "a.weight"


def test_new_parameters_are_drawn_group_by_group_and_the_same_in_any_order(tiny: Config):
    groups = ("film", "map_encoder", "environment_encoder")
    wanted = {path: leaf for name in groups for path, leaf in flatten(initial_additions(tiny.model, name)).items()}
    fresh = FreshAdditions(tiny.model)
    for path in sorted(wanted):
        np.testing.assert_array_equal(fresh.take(path), wanted[path])
        assert all(left.startswith(path.split("/")[0]) for left in fresh.drawn)
        assert path not in fresh.drawn
    assert not fresh.drawn
    # FiLM begins as the identity: its kernels are zero.
    kernels = {path: leaf for path, leaf in wanted.items() if path.startswith("map_encoder") and leaf.ndim > 1}
    assert all(np.ptp(jax.device_get(leaf)) > 0 for leaf in kernels.values())
    assert kernels
