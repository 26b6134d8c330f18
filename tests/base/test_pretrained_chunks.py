"""A pretrained folder goes chunk by chunk: little of it is in memory, and only what is asked for is read."""

import json
import weakref
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from con360av_jax.base.parts import PARTS
from con360av_jax.base.pretrained import Pretrained, open_pretrained, write_pretrained
from con360av_jax.config.settings import Config, MeshConfig
from con360av_jax.errors import CheckpointError
from con360av_jax.models.functional import unflatten
from con360av_jax.sharding import make_mesh
from tests.support import tiny_world


@pytest.fixture(scope="module")
def pretrained(tiny: Config) -> Pretrained:
    return open_pretrained(tiny_world.base(tiny))


def test_at_most_one_chunk_and_the_next_tensor_are_in_memory(
    pretrained: Pretrained, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of parts whose leaves are functions; all of them together are much larger."""
    monkeypatch.setattr("con360av_jax.base.chunks.CHUNK_BYTES", 8 * 400)
    alive: set[int] = set()
    most, read = [0], []

    def reading(path: str):
        def read_tensor() -> np.ndarray:
            number, tensor = len(read), np.full(100, len(read), np.float32)
            read.append(path)
            alive.add(number)
            weakref.finalize(tensor, alive.discard, number)
            most[0] = max(most[0], len(alive))
            return tensor

        return read_tensor

    paths = [f"layer{number:02}/kernel" for number in range(40)]
    parts = ((part, unflatten({path: reading(f"{part}/{path}") for path in reversed(paths)})) for part in PARTS)
    write_pretrained(tmp_path / "base", tiny, parts, pretrained.tokenizers, origin="a test")
    assert read == [f"{part}/{path}" for part in PARTS for path in paths]
    assert most[0] <= 8 + 1
    assert not alive
    written = open_pretrained(tmp_path / "base", verify=True)
    assert written.params("vocoder", below=("layer07",))["kernel"][0] == 5 * 40 + 7
    totals = written.report["totals"]
    assert isinstance(totals, dict)
    assert totals["vocoder"] == {"tensors": 40, "parameters": 4000}


def test_a_corrupt_tensor_found_while_writing_leaves_nothing(pretrained: Pretrained, tiny: Config, tmp_path: Path):
    def corrupt() -> np.ndarray:
        raise CheckpointError("b: 1 of 2 values are NaN")

    parts = [("joint", {"a": {"kernel": np.ones(2, np.float32)}, "b": {"kernel": corrupt}})]
    with pytest.raises(CheckpointError, match="1 of 2 values"):
        write_pretrained(tmp_path / "base", tiny, parts, pretrained.tokenizers, origin="a test")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def in_chunks(pretrained: Pretrained, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretrained:
    """A folder whose every part has the subtrees one, two and three, of which two begins within a chunk."""
    monkeypatch.setattr("con360av_jax.base.chunks.CHUNK_BYTES", 3 * 4)
    trees = {
        one: {"net": {str(k): np.full(1, 10 * n + k, np.float32) for k in range(4)}}
        for n, one in enumerate(("one", "three", "two"))
    }
    parts = ((part, trees) for part in PARTS)
    write_pretrained(tmp_path / "base", tiny, parts, pretrained.tokenizers, origin="a test")
    return open_pretrained(tmp_path / "base")


@pytest.mark.parametrize("below", [(), ("one",), ("three",), ("two", "net")])
def test_reading_a_subtree_equals_slicing_the_whole(in_chunks: Pretrained, below: tuple[str, ...]):
    wanted = in_chunks.params("joint")
    for name in below:
        wanted = wanted[name]
    everywhere = NamedSharding(make_mesh(MeshConfig(data=8)), P())
    plain = in_chunks.params("joint", below=below)
    spread = in_chunks.params("joint", jax.tree.map(lambda _: everywhere, wanted), below=below)
    for found in (plain, spread):
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert {leaf.sharding for leaf in jax.tree.leaves(spread)} == {everywhere}


def test_chunks_outside_a_subtree_are_not_read(in_chunks: Pretrained):
    """Damage there goes unnoticed, damage within and missing files do not."""
    data = sorted((in_chunks.folder / "params" / "joint" / "0").rglob("d/*"))[0]
    data.write_bytes(b"corrupt")
    assert in_chunks.params("joint", below=("two",))["net"]["3"] == 23
    for below in ((), ("one",)):
        with pytest.raises(CheckpointError, match=r"params/joint is corrupt \(its files are not those"):
            in_chunks.params("joint", below=below)
    data.unlink()
    with pytest.raises(CheckpointError, match="params/joint is corrupt"):
        in_chunks.params("joint", below=("two",))


def test_a_path_that_does_not_exist_is_refused(in_chunks: Pretrained):
    for below in (("four",), ("one", "net", "0"), ("on",)):
        with pytest.raises(CheckpointError, match=f"params/joint has no parameters below {'/'.join(below)}/"):
            in_chunks.params("joint", below=below)


def test_a_parameter_that_its_chunk_lacks_is_found(in_chunks: Pretrained):
    """Orbax says nothing where only some of a checkpoint are asked for."""
    report = json.loads(json.dumps(in_chunks.report))
    report["tensors"].append(report["tensors"][0] | {"path": "one/stranger"})
    with pytest.raises(CheckpointError, match="params/joint is corrupt .one/stranger is not in chunk 0"):
        replace(in_chunks, report=report).params("joint", below=("one",))
