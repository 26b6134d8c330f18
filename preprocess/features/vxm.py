"""Reader of the .vxm container: named integers and float32 tensors, all of which must be as expected.

    01 't' 'P' 'M', u32 number of entries; per entry u32 length, key ending in NUL, u32 length, value   (little-endian)

A tensor has several entries: its values under `name`, and its type under `name.dtype`, `.ndims`, `.shape`,
`.shape.listlength` and `.shape[i]` (the last two not for a vector).

Source: derived from bin/fastgaze.vxm of twitter-research/image-crop-analysis; the format has no published description.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from con360av_jax.errors import CheckpointError

Wanted: TypeAlias = "int | tuple[int, ...]"
"""An integer's value, or the shape of a float32 tensor."""
MAGIC = b"\x01tPM"


def read_vxm(path: Path, wanted: Mapping[str, Wanted]) -> dict[str, np.ndarray]:
    """Float32 tensors by name, from a file that holds exactly the wanted integers and tensors.

    Raises CheckpointError if the file is missing, is no .vxm file, ends early or goes on after its last entry, or if
    any entry is missing, unexpected or not as wanted; the message lists all of them.
    """
    entries = _entries(path)
    exact, sizes = _expected(wanted)
    found = []
    for name in sorted({*entries, *exact, *sizes}):
        value = entries.get(name)
        if value is None:
            found.append(f"{name} is missing")
        elif name in sizes and len(value) != 4 * sizes[name]:
            found.append(f"{name} has {len(value)} bytes, wanted {4 * sizes[name]}")
        elif name in exact and value != exact[name]:
            found.append(f"{name} is {_shown(value)}, wanted {_shown(exact[name])}")
        elif name in sizes and not np.isfinite(np.frombuffer(value, "<f4")).all():
            found.append(f"{name} holds NaN or infinity")
        elif name not in sizes and name not in exact:
            found.append(f"{name} is unexpected")
    if found:
        raise CheckpointError(f"{path}: is another network, {len(found)} problems: {'; '.join(found)}")
    return {
        name: np.frombuffer(entries[name], "<f4").astype(np.float32).reshape(shape)
        for name, shape in wanted.items()
        if isinstance(shape, tuple)
    }


def _expected(wanted: Mapping[str, Wanted]) -> tuple[dict[str, bytes], dict[str, int]]:
    """Entries with known bytes, and the number of float32 values of the other entries."""
    exact: dict[str, bytes] = {}
    sizes: dict[str, int] = {}
    for name, what in wanted.items():
        if isinstance(what, int):
            exact[name] = _int32(what)
            continue
        sizes[name] = math.prod(what)
        exact |= {f"{name}.dtype": b"float32", f"{name}.ndims": _int32(len(what)), f"{name}.shape": _int32(*what)}
        if len(what) > 1:
            exact |= {f"{name}.shape[{axis}]": _int32(size) for axis, size in enumerate(what)}
            exact[f"{name}.shape.listlength"] = _int32(len(what))
    return exact, sizes


def _entries(path: Path) -> dict[str, bytes]:
    """All entries of the file, as bytes by name."""
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; give the published .vxm file")
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        raise CheckpointError(f"{path} begins with {content[:4]!r}, a .vxm file with {MAGIC!r}; give a .vxm file")
    entries: dict[str, bytes] = {}
    count, place = _length(path, content, len(MAGIC))
    for _ in range(count):
        key, place = _block(path, content, place)
        value, place = _block(path, content, place)
        try:
            name = key.decode("ascii").removesuffix("\0")
        except UnicodeDecodeError:
            name = ""
        if not name.isprintable() or len(name) + 1 != len(key) or name in entries:
            raise CheckpointError(f"{path}: {key[:40]!r} before byte {place} is no new name; get the file again")
        entries[name] = value
    if place != len(content):
        raise CheckpointError(
            f"{path}: has {len(content) - place} bytes after the last of its {count} entries; get the file again"
        )
    return entries


def _block(path: Path, content: bytes, place: int) -> tuple[bytes, int]:
    """A block of bytes that is preceded by its length, and the position of its end."""
    length, place = _length(path, content, place)
    if place + length > len(content):
        raise CheckpointError(
            f"{path}: ends early: {length} bytes are wanted at byte {place} of {len(content)}; get the file again"
        )
    return content[place : place + length], place + length


def _length(path: Path, content: bytes, place: int) -> tuple[int, int]:
    if place + 4 > len(content):
        raise CheckpointError(f"{path}: ends early, at byte {len(content)}; get the file again")
    return struct.unpack_from("<I", content, place)[0], place + 4


def _int32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def _shown(value: bytes) -> str:
    """A short entry as integers or bytes, for a message."""
    if len(value) % 4 or len(value) > 64:
        return repr(value[:16])
    numbers = struct.unpack(f"<{len(value) // 4}i", value)
    return str(numbers[0] if len(numbers) == 1 else numbers)
