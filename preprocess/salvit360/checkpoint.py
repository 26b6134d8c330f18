"""Published weights of SalViT360 into the network: every key used once, or one error that lists what is wrong."""

import logging
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from con360av_jax.errors import CheckpointError
from preprocess.salvit360.network import SalViT360, Variant

logger = logging.getLogger(__name__)

# What the published file of VAC holds beyond the network: a third decoder, which no forward pass reaches.
KNOWN_EXTRAS = frozenset(
    f"decoder.{block}.block.{part}.{kind}" for block in range(3) for part in range(2) for kind in ("weight", "bias")
)
# What PyTorch's reader raises on damaged bytes, besides pickle.UnpicklingError.
DAMAGE = (RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError, AssertionError,
          ArithmeticError, MemoryError, struct.error)  # fmt: skip


def load_salvit360(path: Path) -> SalViT360:
    """The network of a published checkpoint, in eval mode, float32, on the CPU; its keys say which variant it is.

    Args:
        path: as torch.save wrote it: a dict whose "model" holds the weights, "module." before each key or not.

    Raises CheckpointError if the file is missing, damaged or could run code, or holds other weights than one variant's.
    """
    state = {name.removeprefix("module."): value for name, value in _read(path).items()}
    variant = variant_of(path, state)
    if variant == "vac" and (extras := sorted(KNOWN_EXTRAS & set(state))):
        logger.warning("%s: left out, for the published network has no use for them: %s", path, ", ".join(extras))
        state = {name: value for name, value in state.items() if name not in KNOWN_EXTRAS}
    # Nothing is drawn at random only to be replaced.
    with torch.device("meta"):
        network = SalViT360(variant)
    wanted = network.state_dict()
    if found := _problems(state, wanted):
        raise CheckpointError(f"{path}: is not SalViT360 ({variant}), {len(found)} problems: {'; '.join(found)}")
    tensors = {name: value.to(wanted[name].dtype) for name, value in state.items() if isinstance(value, Tensor)}
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


def variant_of(path: Path, names: Mapping[str, object]) -> Variant:
    """Which variant has such keys, without "module."; raises CheckpointError if none has."""
    if any(name.startswith("decoders.") for name in names):
        return "vac"
    if any(name.startswith("decoder.") for name in names):
        return "vsta"
    raise CheckpointError(f"{path}: has neither decoder.* nor decoders.*; give SalViT360's published VSTA or VAC file")


def _read(path: Path) -> dict[str, object]:
    """The named things of the file's "model", of which nothing was run."""
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; give SalViT360's published checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a TorchScript archive warns before it is refused
            content = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        stranger = re.search(r"GLOBAL (\S+)", str(error))
        what = f"asks for {stranger[1]}, which could run code" if stranger else "is damaged or holds more than tensors"
        raise CheckpointError(f"{path} {what}: refused, nothing of it was run; get it again") from error
    except DAMAGE as error:
        line = (str(error).strip() or repr(error)).splitlines()[0][:160]
        raise CheckpointError(f"{path} is damaged or not PyTorch's: {line}; get it again") from error
    model = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(model, Mapping) or not all(isinstance(name, str) for name in model):
        raise CheckpointError(f"{path}: has no weights by name under 'model'; give SalViT360's published checkpoint")
    return dict(model)


def _problems(state: Mapping[str, object], wanted: Mapping[str, Tensor]) -> list[str]:
    """Every way in which the weights are not the network's, in the order of their keys."""
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
