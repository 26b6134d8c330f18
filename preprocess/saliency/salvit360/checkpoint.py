"""SalViT360 with a published checkpoint; weights that do not fit are listed in one error."""

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

# Weights of the published VAC file beyond the network: a third decoder, which no forward pass reaches.
KNOWN_EXTRAS = frozenset(
    f"decoder.{block}.block.{part}.{kind}" for block in range(3) for part in range(2) for kind in ("weight", "bias")
)


def load_salvit360(path: Path) -> SalViT360:
    """The network of a published checkpoint, in eval mode, float32, on the CPU; its keys determine the variant.

    Args:
        path: PyTorch file with the weights under "model", with or without "module." before each key.

    Raises CheckpointError if the file is missing, corrupt or could run code, or if the weights fit neither variant.
    """
    content = read_torch_file(path, torch.load, WEIGHTS)
    model = content.get("model") if isinstance(content, Mapping) else None
    state = {
        name.removeprefix("module."): value
        for name, value in require_named(path, model, WEIGHTS, " under 'model'").items()
    }
    variant = variant_of(path, state)
    if variant == "vac" and (extras := sorted(KNOWN_EXTRAS & set(state))):
        logger.warning("%s: left out, because the published network does not use them: %s", path, ", ".join(extras))
        state = {name: value for name, value in state.items() if name not in KNOWN_EXTRAS}
    return with_weights(lambda: SalViT360(variant), state, path, f"SalViT360 ({variant})")


def variant_of(path: Path, names: Mapping[str, object]) -> Variant:
    """The variant with these keys, which are without "module."; raises CheckpointError if there is none."""
    if any(name.startswith("decoders.") for name in names):
        return "vac"
    if any(name.startswith("decoder.") for name in names):
        return "vsta"
    raise CheckpointError(f"{path}: has neither decoder.* nor decoders.*; give SalViT360's published VSTA or VAC file")
