"""Small real files, and random damage to them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from con360av_jax.media.files import write_clip
from tests.support.panorama_files import EVENLY, RATE, hiss, panorama, write_panorama
from tests.support.spherical_boxes import WHOLE, add_metadata, first_version, projection, stereo
from tests.support.turned_files import TURNS, display_matrix


def media_files(folder: Path) -> list[bytes]:
    """An mp4 of H.264 and AAC, a QuickTime file with spherical metadata and a Matroska file with a display matrix."""
    pictures = np.stack([panorama(number) for number in range(10)])
    write_clip(folder / "a.mp4", pictures, 8, hiss(1.2), RATE)
    write_panorama(folder / "b.mov", times=EVENLY[:10], sound=hiss(1.2))
    add_metadata(folder / "b.mov", stereo(0) + projection(b"equi", WHOLE), first_version("mono"))
    matrix = display_matrix(*TURNS["180"][0])
    write_panorama(folder / "c.mkv", times=EVENLY[:10], sound=hiss(1.2), matrix=matrix)
    return [(folder / name).read_bytes() for name in ("a.mp4", "b.mov", "c.mkv")]


def text_files() -> list[bytes]:
    """A table, a list, captions as lines and as text."""
    return [
        b"file,clip,source,split\na.mp4,walk,,train\n",
        "Old town walk\ncafé\n".encode(),
        '{"file": "a.mp4", "caption": "Church bells – a voice"}\n'.encode(),
        "Church bells – a voice\n".encode("utf-16"),
    ]


def weight_files(folder: Path) -> list[bytes]:
    """A safetensors file and a PyTorch file."""
    import torch

    tensors = {"conv_in.weight": np.ones((2, 3), np.float32), "conv_in.bias": np.ones(2, np.float16)}
    save_file(tensors, folder / "a.safetensors")
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, folder / "b.bin")
    return [(folder / name).read_bytes() for name in ("a.safetensors", "b.bin")]


def damaged(contents: list[bytes], cases: range) -> Iterator[bytes]:
    """One content after the other, cut off, with flipped bytes, or with a part that is missing or zero."""
    for case in cases:
        random = np.random.default_rng(case)
        data = bytearray(contents[case % len(contents)])
        # Half of the damage lies in the first or last 2,000 bytes, where headers are.
        reach = min(len(data), 2000) if random.integers(2) else len(data)
        at = int(random.integers(reach))
        at = len(data) - 1 - at if random.integers(2) else at
        match int(random.integers(5)):
            case 0:
                del data[at:]
            case 1:
                del data[at : at + int(random.integers(1, 200))]
            case 2:
                data[at : at + 16] = bytes(len(data[at : at + 16]))
            case _:
                for place in random.integers(max(0, at - 200), min(len(data), at + 200), int(random.integers(1, 8))):
                    data[place] = int(random.integers(256))
        yield bytes(data)
