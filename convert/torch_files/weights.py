"""Tensor files, read one tensor at a time and never trusted: safetensors, and PyTorch's pickles (pickled.py).

A safetensors file is 8 bytes of header length (little-endian), a JSON header {name: dtype, shape, data_offsets} and the
tensors' bytes; offsets count from the end of the header. The safetensors package checks the header; tensors are
memory-mapped here, so that none is copied before it is used.
"""

import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from con360av_jax.errors import CheckpointError, first_line, some
from con360av_jax.runtime.files import replacing
from convert.torch_files.choice import LOOSE, NAMED, VARIANTS, is_index, weight_files
from convert.torch_files.pickled import PICKLES, dtype_name, load_tensors, to_numpy

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(bool),
    **{f"{kind[0].upper()}{bits}": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """File, shape and dtype of a tensor, known without loading it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """NumPy's name: "float32", "float16", "bfloat16", "int64", ..."""


@dataclass(frozen=True, eq=False)
class Weights(Mapping[str, np.ndarray]):
    """The tensors of one file, one sharded set or one component's folder; tensors are read on access.

    Arrays are read-only views of the file wherever possible; bfloat16 is ml_dtypes.bfloat16, as in jax.numpy.
    """

    path: Path
    """The opened file or folder."""
    infos: Mapping[str, TensorInfo] = field(repr=False)
    """Description of every tensor, in the order of the file or the index."""
    readers: Mapping[str, Callable[[], np.ndarray]] = field(repr=False)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def __contains__(self, name: object) -> bool:
        return name in self.infos

    def select(self, prefix: str) -> "Weights":
        """The tensors whose names begin with `prefix` and a dot, without these; the prefix "" selects everything."""
        if not prefix:
            return self
        names = {name: name.removeprefix(f"{prefix}.") for name in self if name.startswith(f"{prefix}.")}
        infos = {short: self.infos[name] for name, short in names.items()}
        return Weights(self.path, infos, {short: self.readers[name] for name, short in names.items()})


def open_weights(path: Path) -> Weights:
    """Opens a .safetensors, .bin, .ckpt, .pt or .pth file, an index of shards, or the folder of one component.

    Loads no tensor and executes nothing that a file holds.

    Raises CheckpointError if there is nothing to open, or it is corrupt, refused or needs torch, which is missing.
    """
    if not path.is_dir():
        return _open_index(path) if is_index(path) else _open_file(path)
    files = weight_files(path)
    if len(files) != 1:
        found = [file.name for file in files] or sorted(entry.name for entry in path.iterdir())
        raise CheckpointError(
            f"{path} holds {'several weight files' if files else 'no weights'}: found {some(found) or 'nothing'}; "
            f"looked for {', '.join(NAMED[:8])}, for the same with {' or '.join(filter(None, VARIANTS))}, then for a "
            f"single file that ends in {' or '.join(LOOSE)}; give the file itself"
        )
    return replace(open_weights(files[0]), path=path)


def require_finite(name: str, tensor: np.ndarray) -> None:
    """Raises CheckpointError if a floating-point tensor holds NaN or infinity."""
    if tensor.dtype.kind in "biu" or (finite := np.isfinite(tensor)).all():
        return
    bad = tensor.size - np.count_nonzero(finite)
    raise CheckpointError(f"{name}: {bad} of {tensor.size} values are NaN or infinite; get the file again")


def cast_floating(tensor: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """`tensor` in `dtype` if it holds floating-point numbers; unchanged if it does not or `dtype` is None."""
    return tensor if dtype is None or tensor.dtype.kind in "biu" else tensor.astype(dtype)


def write_weights(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file aside and moves it into place once it is complete.

    Tensors are asked for twice, for the header and for their bytes, and held one at a time: `tensors` may be lazy.

    Raises CheckpointError if a dtype has no name in the format or the file cannot be written (nothing is left behind).
    """
    codes, end = {dtype: code for code, dtype in DTYPES.items()}, 0
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    specs = {name: (np.asarray(tensor).dtype, np.shape(tensor)) for name, tensor in tensors.items()}
    # As the library orders them: the widest dtype first keeps every tensor aligned.
    order = sorted(specs, key=lambda name: (-specs[name][0].itemsize, name))
    for name in order:
        dtype, shape = specs[name]
        if dtype not in codes:
            raise CheckpointError(f"{name} has dtype {dtype!r}, which safetensors does not know: convert it first")
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": codes[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path, CheckpointError) as aside, aside.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(np.ascontiguousarray(tensors[name]).ravel().view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def _open_file(path: Path) -> Weights:
    try:
        with path.open("rb") as file:
            start = file.read(64)
            if path.suffix not in (".safetensors", *PICKLES):
                raise CheckpointError(
                    f"{path} is no weight file: wanted .safetensors, {', '.join(PICKLES)}, *.index.json"
                )
            if not start:
                raise CheckpointError(f"{path} is empty: get it again")
            if start.startswith(b"version https://git-lfs"):
                raise CheckpointError(f"{path} is only a git-lfs pointer: run git lfs pull where it came from")
            return _open_safetensors(path, file) if path.suffix == ".safetensors" else _open_pickle(path, start)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error})") from error


def _open_safetensors(path: Path, file: BinaryIO) -> Weights:
    try:
        with safe_open(path, framework="np"):
            pass  # opening checks that sizes fit shapes and that tensors fill the file without gap or overlap
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is corrupt or not a safetensors file: {first_line(error)}; get it again"
        ) from error
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    infos: dict[str, TensorInfo] = {}
    readers: dict[str, Callable[[], np.ndarray]] = {}
    for name, entry in json.loads(file.read(length)).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in DTYPES:
            raise CheckpointError(f"{path}: {name} has dtype {entry['dtype']}; supported are {', '.join(DTYPES)}")
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        infos[name] = TensorInfo(file=path, shape=shape, dtype=dtype.name)
        readers[name] = partial(_map_tensor, path, dtype, shape, 8 + length + entry["data_offsets"][0])
    return Weights(path, infos, readers)


def _map_tensor(path: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> np.ndarray:
    # One mapping per tensor, so that its pages are released with it.
    if 0 in shape:
        return np.empty(shape, dtype)
    try:
        mapped = np.memmap(path, dtype, "r", offset, shape)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} changed or vanished while it was being read ({first_line(error)})") from error
    return np.require(np.asarray(mapped), requirements="A")


def _open_pickle(path: Path, start: bytes) -> Weights:
    # Files from before PyTorch 1.6 are no zip archives and cannot be mapped.
    tensors = load_tensors(path, {known.name for known in DTYPES.values()}, mapped=start.startswith(b"PK\x03\x04"))
    infos = {
        name: TensorInfo(file=path, shape=tuple(tensor.shape), dtype=dtype_name(tensor))
        for name, tensor in tensors.items()
    }
    return Weights(path, infos, {name: partial(to_numpy, tensor) for name, tensor in tensors.items()})


def _open_index(path: Path) -> Weights:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)}): get it again") from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise CheckpointError(f"{path} is no index of shards: wanted weight_map, from tensor names to file names")
    for shard in places.values():
        if Path(shard).is_absolute() or ".." in Path(shard).parts:
            raise CheckpointError(f"{path} is refused: its shard {shard} lies outside the folder")
    shards = {shard: _open_file(path.parent / shard) for shard in dict.fromkeys(places.values())}
    problems = [f"{name} is not in {shard}" for name, shard in places.items() if name not in shards[shard]]
    for shard, weights in shards.items():
        problems += [f"{name} of {shard} is not in the index" for name in weights if places.get(name) != shard]
    if problems:
        raise CheckpointError(f"{path} and its shards do not fit: {some(problems, '; ')}; get them again")
    infos = {name: shards[shard].infos[name] for name, shard in places.items()}
    return Weights(path, infos, {name: shards[shard].readers[name] for name, shard in places.items()})
