"""Damage to files, and a disk without room."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def flip(file: Path) -> None:
    """Flips one bit in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def overwrite(file: Path) -> None:
    """Overwrites 200 bytes of a file with zeros."""
    data = bytearray(file.read_bytes())
    data[500:700] = bytes(200)
    file.write_bytes(data)


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Limits the files of this process to `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
