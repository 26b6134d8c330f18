"""Tensors of every kind in every weight file format, and assertions that hold for all of them."""

import resource
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import CheckpointError
from convert.torch_files.weights import open_weights


def tensors() -> dict[str, np.ndarray]:
    """Every dtype in 0 to 3 dimensions, one of them empty."""
    random = np.random.default_rng(0)
    return {
        f"{dtype}.{number}": np.asarray(100 * random.standard_normal(shape)).astype(np.dtype(dtype))
        for dtype in ("float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool")
        for number, shape in enumerate(((), (3,), (2, 3), (0, 2), (2, 1, 5)))
    }


def assert_same(given: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    assert sorted(given) == sorted(wanted)
    for name, array in wanted.items():
        found = given[name]
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes()), name
        assert found.flags.c_contiguous and found.flags.aligned, name


def refusal(path: Path) -> str:
    """The one line that opening `path` fails with."""
    with pytest.raises(CheckpointError) as caught:
        open_weights(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def assert_damage_is_told(path: Path) -> None:
    """Cut short, the file at `path` is refused; with wrong bytes anywhere, it is refused in one line or opens."""
    random, whole = np.random.default_rng(0), path.read_bytes()
    for length in (1, *range(100, len(whole), len(whole) // 9), len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "corrupt" in refusal(path)
    for _ in range(100):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[random.integers(0, len(whole), 20)] = random.integers(0, 256, 20)
        path.write_bytes(damaged.tobytes())
        with suppress(CheckpointError):
            weights = open_weights(path)
            assert all(weights[name].shape == info.shape for name, info in weights.infos.items())


def resident_bytes() -> int:
    """Memory of this process, mapped pages of files included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
