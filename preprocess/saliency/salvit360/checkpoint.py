"""Published weights of SalViT360 into the network: every key used once, or one error that lists what is wrong."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from con360av_jax.errors import CheckpointError
from preprocess.saliency.salvit360.network import SalViT360, Variant
from preprocess.torch_files import read_torch_file, state_problems

logger = logging.getLogger(__name__)

# What the published file of VAC holds beyond the network: a third decoder, which no forward pass reaches.
KNOWN_EXTRAS = frozenset(
    f"decoder.{block}.block.{part}.{kind}" for block in range(3) for part in range(2) for kind in ("weight", "bias")
)


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
    if found := state_problems(state, wanted):
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
    content = read_torch_file(path, "SalViT360's published checkpoint")
    model = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(model, Mapping) or not all(isinstance(name, str) for name in model):
        raise CheckpointError(f"{path}: has no weights by name under 'model'; give SalViT360's published checkpoint")
    return dict(model)
