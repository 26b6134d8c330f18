"""Orbax checkpoints of at most 0.5 GiB that hold the parameters of one part of a pretrained folder."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from con360av_jax.errors import CheckpointError, first_line
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.runtime.provenance import file_sha256

# Writing a chunk takes about four times its size in memory.
CHUNK_BYTES = 1 << 29


def read_chunks(part: Path, chunks: Mapping[int, Params]) -> Iterator[dict[str, jax.Array]]:
    """Yields the wanted parameters (flat, as jax.ShapeDtypeStruct with shardings) of each chunk of a part's folder.

    Raises CheckpointError if files are missing or changed, or a chunk lacks a parameter.
    """
    _require_intact(part, {str(number) for number in chunks})
    for number, wanted in chunks.items():
        yield _restore(part / str(number), wanted)


def _restore(chunk: Path, wanted: Params) -> dict[str, jax.Array]:
    """Reads the wanted parameters (flat) of a chunk, and only these."""
    item = unflatten(wanted)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            places = ocp.checkpoint_utils.construct_restore_args(item)
            args = ocp.args.PyTreeRestore(item=item, restore_args=places, partial_restore=True)
            found = flatten(checkpointer.restore(chunk.resolve(), args=args))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(chunk.parent, first_line(error)) from error
    # A partial restore returns the requested placeholder if a chunk has no such parameter.
    for path in wanted:
        if not isinstance(found[path], jax.Array):
            raise damaged(chunk.parent, f"{path} is not in chunk {chunk.name}")
    return found


def _require_intact(part: Path, chunks: Collection[str]) -> None:
    """Raises CheckpointError if a part has missing or extra files, or if files of `chunks` were changed."""
    # Orbax raises exceptions of every kind for corrupt bytes, so hashes are checked before it reads them.
    try:
        wanted: dict[str, str] = json.loads(part.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(part, first_line(error)) from error
    read = [name for name in wanted if name.split("/")[0] in chunks]
    if set(files_below(part)) != wanted.keys() or any(file_sha256(part / name) != wanted[name] for name in read):
        raise damaged(part, "its files are not those that were written")


def damaged(part: Path, why: str) -> CheckpointError:
    """Returns the error for a part that is corrupt for the reason `why`."""
    return CheckpointError(f"{part} is corrupt ({why}): make or convert the pretrained folder again")


def full_chunks(flat: Params) -> Iterator[dict[str, np.ndarray]]:
    """Empties `flat` in path order into chunks of at most CHUNK_BYTES, because Orbax copies what it writes."""
    chunk: dict[str, np.ndarray] = {}
    size = 0
    for path in sorted(flat):
        leaf = flat.pop(path)
        tensor = np.asarray(leaf() if callable(leaf) else leaf)
        if chunk and size + tensor.nbytes > CHUNK_BYTES:
            yield chunk
            chunk, size = {}, 0
        chunk[path] = tensor
        size += tensor.nbytes
    yield chunk


def save_chunk(checkpointer: ocp.StandardCheckpointer, path: Path, chunk: Params, folder: Path) -> None:
    """Writes one chunk to `path`; raises CheckpointError, which names the pretrained folder `folder`, if it cannot."""
    try:
        checkpointer.save(path.resolve(), chunk)
        checkpointer.wait_until_finished()
    except (OSError, ValueError, RuntimeError) as error:
        # Orbax's storage layer raises any of these when the disk is full.
        raise CheckpointError(f"{folder} cannot be written: {first_line(error)}") from error


def files_below(folder: Path) -> list[str]:
    """Returns the relative paths of all files below a folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
