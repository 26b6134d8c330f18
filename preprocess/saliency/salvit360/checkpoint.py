"""Published weights of SalViT360 into the network: every key used once, or one error that lists what is wrong."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from con360av_jax.errors import CheckpointError
from con360av_jax.runtime.torch_files import read_torch_file
from preprocess.saliency.salvit360.network import SalViT360, Variant
from preprocess.torch_weights import require_named, with_weights

logger = logging.getLogger(__name__)

WEIGHTS = "SalViT360's published checkpoint"

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
    content = read_torch_file(path, torch.load, WEIGHTS)
    model = content.get("model") if isinstance(content, Mapping) else None
    state = {
        name.removeprefix("module."): value
        for name, value in require_named(path, model, WEIGHTS, " under 'model'").items()
    }
    variant = variant_of(path, state)
    if variant == "vac" and (extras := sorted(KNOWN_EXTRAS & set(state))):
        logger.warning("%s: left out, for the published network has no use for them: %s", path, ", ".join(extras))
        state = {name: value for name, value in state.items() if name not in KNOWN_EXTRAS}
    return with_weights(lambda: SalViT360(variant), state, path, f"SalViT360 ({variant})")


def variant_of(path: Path, names: Mapping[str, object]) -> Variant:
    """Which variant has such keys, without "module."; raises CheckpointError if none has."""
    if any(name.startswith("decoders.") for name in names):
        return "vac"
    if any(name.startswith("decoder.") for name in names):
        return "vsta"
    raise CheckpointError(f"{path}: has neither decoder.* nor decoders.*; give SalViT360's published VSTA or VAC file")
