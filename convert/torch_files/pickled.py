"""Named tensors of PyTorch's own files (.bin, .ckpt, .pt, .pth), which are pickles, and tensors as NumPy arrays."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from con360av_jax.errors import CheckpointError, some
from con360av_jax.runtime.torch_files import read_torch_file

if TYPE_CHECKING:
    from torch import Tensor

# Settings that AnimateDiff's trainings save among the tensors.
SETTINGS = ("animatediff_config",)
PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def load_tensors(path: Path, dtypes: Collection[str], *, mapped: bool) -> "dict[str, Tensor]":
    """The named tensors of a file, without a training script's wrapper around them.

    Args:
        path: file.
        dtypes: supported dtypes, by NumPy's names.
        mapped: see `read_torch_file`.

    Raises CheckpointError if the file is corrupt, holds anything but plain tensors, or torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(f"reading {path} needs torch: pip install -e '.[torch]'") from error
    content = read_torch_file(path, torch.load, "the file", mapped=mapped)
    tensors = {name: tensor for name, tensor in _state_dict(path, content).items() if name not in SETTINGS}
    problems = []
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            problems.append(f"{name} is a {type(tensor).__name__}, not a tensor")
            continue
        strange = tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_neg()
        if strange or dtype_name(tensor) not in dtypes:
            problems.append(f"{name} is stored as {dtype_name(tensor)}, {tensor.layout}, {tensor.device}")
        elif tensor.numel() * tensor.itemsize > path.stat().st_size:
            problems.append(f"{name} claims the shape {tuple(tensor.shape)}, which the file is too small for")
    if problems:
        raise CheckpointError(f"{path} holds more than plain tensors: {some(problems, '; ')}")
    return tensors


def dtype_name(tensor: "Tensor") -> str:
    """NumPy's name of a tensor's dtype."""
    return str(tensor.dtype).removeprefix("torch.")


def to_numpy(tensor: "Tensor") -> np.ndarray:
    """The same bytes, read-only and without a copy wherever possible; bfloat16 becomes ml_dtypes.bfloat16."""
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # which NumPy does not know
        array = tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    else:
        array = tensor.numpy()
    array = np.require(array, requirements=["C", "A"]).view()
    array.flags.writeable = False
    return array


def _state_dict(path: Path, content: object) -> "Mapping[str, Tensor]":
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}: wanted named tensors (a state dict)")
    inner = [key for key in ("state_dict", "model", "module") if isinstance(content.get(key), Mapping)]
    if len(inner) > 1:
        raise CheckpointError(f"{path} holds several sets of weights ({', '.join(inner)}): save the one you mean alone")
    return content[inner[0]] if inner else content
