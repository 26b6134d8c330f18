"""Weights of PyTorch by their published names, and an object that runs code where it is unpickled."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor


def numbered(shapes: Mapping[str, tuple[int, ...]], parts: int) -> dict[str, Tensor]:
    """Weights of these shapes, each one number of its own (1 / `parts`, 2 / `parts` ...), so that files are small."""
    return {
        name: torch.tensor(number if name.endswith("tracked") else number / parts).expand(shape)
        for number, (name, shape) in enumerate(shapes.items(), start=1)
    }


def norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a batch norm's tensors."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (channels,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}


class Hostile(str):
    """Makes a folder of this name where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (str(self),)
