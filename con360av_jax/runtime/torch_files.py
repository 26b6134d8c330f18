"""Reader of files that torch.save wrote; nothing that they hold is run, and torch itself stays with the caller."""

import pickle
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

from con360av_jax.errors import CheckpointError, first_line

# What torch.load and torch.jit.load raise on corrupt bytes, besides pickle.UnpicklingError.
CORRUPT = (RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError, AssertionError,
           ArithmeticError, MemoryError, struct.error)  # fmt: skip


def read_torch_file(path: Path, load: Callable[..., object], wanted: str, *, mapped: bool = False) -> object:
    """Content of a PyTorch file, on the CPU.

    Args:
        path: file.
        load: `torch.load`, which this package does not import.
        wanted: name of the file that is needed, for messages ("give {wanted}").
        mapped: leave the bytes in the file until they are asked for. The pages that were read then count as resident
            while one of the tensors lives, although the system may drop them at any time. Otherwise all is in memory.

    Raises:
        CheckpointError: the file is missing or corrupt, or holds anything but tensors and plain values, which could
            run code.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; give {wanted}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a TorchScript archive warns before it is refused
            return load(path, weights_only=True, mmap=mapped, map_location="cpu")
    except pickle.UnpicklingError as error:
        stranger = re.search(r"GLOBAL (\S+)", str(error))
        what = f"asks for {stranger[1]}, which could run code" if stranger else "is corrupt or holds more than tensors"
        raise CheckpointError(
            f"{path} {what}: refused, nothing of it was run; get it from a source you trust, or as safetensors"
        ) from error
    except CORRUPT as error:
        raise CheckpointError(f"{path} is corrupt or not a PyTorch file: {first_line(error)}; get it again") from error
