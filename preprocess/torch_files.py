"""PyTorch files of others: read without running anything of theirs, and held against the network they are for."""

import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from con360av_jax.errors import CheckpointError

# What PyTorch's reader raises on damaged bytes, besides pickle.UnpicklingError.
DAMAGE = (RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError, AssertionError,
          ArithmeticError, MemoryError, struct.error)  # fmt: skip


def read_torch_file(path: Path, wanted: str) -> object:
    """What torch.save wrote, on the CPU, of which nothing was run.

    Args:
        wanted: what the file should be, for messages, as in "give {wanted}".

    Raises CheckpointError if the file is missing, damaged or could run code.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; give {wanted}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a TorchScript archive warns before it is refused
            return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        stranger = re.search(r"GLOBAL (\S+)", str(error))
        what = f"asks for {stranger[1]}, which could run code" if stranger else "is damaged or holds more than tensors"
        raise CheckpointError(f"{path} {what}: refused, nothing of it was run; get it again") from error
    except DAMAGE as error:
        raise CheckpointError(f"{path} is damaged or not PyTorch's: {first_line(error)}; get it again") from error


def first_line(error: BaseException) -> str:
    """What an error says, at most 160 letters of one line."""
    return (str(error).strip() or repr(error)).splitlines()[0][:160]


def state_problems(state: Mapping[str, object], wanted: Mapping[str, Tensor]) -> list[str]:
    """Every way in which weights are not the network's, in the order of their keys."""
    found = []
    for name in sorted({*state, *wanted}):
        if name not in state:
            found.append(f"{name} is missing")
        elif name not in wanted:
            found.append(f"{name} is unexpected")
        elif problem := _problem(state[name], wanted[name]):
            found.append(f"{name} {problem}")
    return found


def _problem(given: object, wanted: Tensor) -> str:
    """What is wrong with one weight, or ""."""
    if not isinstance(given, Tensor) or given.layout != torch.strided or given.device.type != "cpu":
        return f"is a {type(given).__name__}, not a plain tensor"
    if given.shape != wanted.shape:
        return f"has shape {tuple(given.shape)}, wanted {tuple(wanted.shape)}"
    if given.is_complex() or given.is_floating_point() != wanted.is_floating_point():
        return f"is {given.dtype}, wanted {wanted.dtype}"
    return "" if given.isfinite().all() else "holds NaN or infinity"
