"""FastGaze's file format and layers a second time, in NumPy and SciPy, from what is known of the published file."""

import struct
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import gaussian_filter1d

Entries = dict[str, bytes]
# Output channels, input channels and size of each convolution, by its number among the layers.
CONVOLUTIONS = {
    0: (43, 3, 3), 1: (44, 43, 3), 3: (49, 44, 3), 4: (56, 49, 3), 6: (44, 56, 3), 7: (38, 44, 3), 9: (31, 38, 3),
    10: (20, 31, 3), 12: (18, 20, 3), 13: (10, 18, 3), 14: (7, 10, 1), 15: (7, 7, 1), 16: (2, 7, 1), 17: (1, 2, 1),
}  # fmt: skip


def integers(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


def tensor_entries(name: str, values: np.ndarray) -> Entries:
    entries = {name: values.astype("<f4").tobytes(), f"{name}.dtype": b"float32"}
    entries |= {f"{name}.ndims": integers(values.ndim), f"{name}.shape": integers(*values.shape)}
    if values.ndim > 1:
        entries[f"{name}.shape.listlength"] = integers(values.ndim)
        entries |= {f"{name}.shape[{axis}]": integers(size) for axis, size in enumerate(values.shape)}
    return entries


def random_entries(seed: int = 0) -> Entries:
    """All entries of a file with random weights."""
    generator = np.random.default_rng(seed)
    entries = {"layerCount": integers(19), "modelType": integers(2)}
    for layer in (2, 5, 8, 11):
        entries |= {f"{layer}Type": integers(2), f"{layer}Pool": integers(2)}
    for layer, (channels, before, size) in CONVOLUTIONS.items():
        entries |= {f"{layer}Type": integers(0), f"{layer}Act": integers(1 if size == 3 else 4)}
        spread = np.sqrt(2 / (before * size * size))
        entries |= tensor_entries(f"{layer}w", generator.normal(0, spread, (channels, before, size, size)))
        entries |= tensor_entries(f"{layer}b", generator.normal(0, 0.1, channels))
        if size == 1:
            entries |= tensor_entries(f"{layer}alpha", generator.uniform(0.2, 0.4, 1))
    return entries | {"18Type": integers(3), "18KernelSize": integers(19), "18Std": integers(3)}


def write_file(path: Path, entries: Entries) -> Path:
    packed = b"".join(
        struct.pack("<I", len(name) + 1) + name.encode() + b"\0" + struct.pack("<I", len(value)) + value
        for name, value in entries.items()
    )
    path.write_bytes(b"\x01tPM" + struct.pack("<I", len(entries)) + packed)
    return path


def read_file(path: Path) -> Entries:
    """Every entry: a walk over the bytes that takes lengths at their word."""
    content, entries, place = path.read_bytes(), {}, 8
    while place < len(content):
        blocks = []
        for _ in range(2):
            (length,) = struct.unpack("<I", content[place : place + 4])
            blocks.append(content[place + 4 : place + 4 + length])
            place += 4 + length
        entries[blocks[0][:-1].decode()] = blocks[1]
    return entries


def layer_outputs(entries: Entries, picture: np.ndarray) -> list[np.ndarray]:
    """Output of each layer for an image (height, width, RGB in 0..255), float64, channels first."""

    def number(name: str) -> int:
        return int(np.frombuffer(entries[name], "<i4")[0])

    def values(name: str) -> np.ndarray:
        shape = np.frombuffer(entries[f"{name}.shape"], "<i4")
        return np.frombuffer(entries[name], "<f4").reshape(shape).astype(np.float64)

    x = np.moveaxis(picture.astype(np.float64) - [123.68, 116.779, 103.939], 2, 0)
    outputs = []
    for layer in range(number("layerCount")):
        kind = number(f"{layer}Type")
        if kind == 2:
            x = sliding_window_view(x, (2, 2), axis=(1, 2))[:, ::2, ::2].max(axis=(3, 4))
        elif kind == 3:
            for axis in (1, 2):
                x = gaussian_filter1d(x, number(f"{layer}Std"), axis=axis, mode="constant", radius=9)
        else:
            w = values(f"{layer}w")
            border = w.shape[2] // 2
            windows = sliding_window_view(
                np.pad(x, ((0, 0), (border, border), (border, border))), w.shape[2:], axis=(1, 2)
            )
            x = np.einsum("ihwyx,oiyx->ohw", windows, w, optimize=True) + values(f"{layer}b")[:, None, None]
            slope = values(f"{layer}alpha")[0] if number(f"{layer}Act") == 4 else 0
            x = np.where(x > 0, x, slope * x)
        outputs.append(x)
    return outputs
