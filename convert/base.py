"""The `base` command: writes published PyTorch weights as one pretrained folder, part by part, or writes nothing."""

import math
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.filesize import decimal
from rich.progress import track

from con360av_jax.base.parts import PARTS
from con360av_jax.base.pretrained import write_pretrained
from con360av_jax.base.tokenizer import load_tokenizer
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.errors import CheckpointError
from convert.base_config import make_config
from convert.part_source import PartSource
from convert.torch_files.folders import Component, Sources


def convert_base(sources: Sources, out: Path, dtype: np.dtype | None = None, config: Config | None = None) -> Config:
    """Writes the pretrained folder `out` and returns its config.

    Args:
        sources: published weights to convert.
        out: folder to make.
        dtype: dtype of all floating-point parameters; None keeps what the files store.
        config: settings that no published file holds (clip, training, Map Encoder); the defaults are the paper's.

    Raises:
        CheckpointError: tensors and tables do not fit (all problems at once), a skipped tensor is not what the model
            computes in its place, a tensor is corrupt or holds NaN or infinity, `out` exists, or it cannot be written
            (then nothing of it is left).
        ConfigError: a config.json asks for something that the models do not have.
    """
    made = make_config(sources, out.name, config)
    require_space(out, sum(component_bytes(component, dtype) for component in sources.components.values()))
    tokenizers = {name: load_tokenizer(sources.tokenizers[name], name) for name in MODALITIES}
    # All parts are checked before the first tensor is read: gigabytes are not written in vain.
    parts = {part: PartSource(part, sources, made, dtype) for part in PARTS}
    for part in parts.values():
        part.require_formulas()
    write_pretrained(
        out,
        made,
        ((part, parts[part].params()) for part in track(PARTS, description="convert")),
        tokenizers,
        sources.origin,
        lambda part, path: {"source": parts[part].origin(path)},
    )
    return made


def component_bytes(component: Component, dtype: np.dtype | None) -> int:
    """Bytes that a component's tensors take on disk in `dtype`, or as stored if it is None."""
    return sum(
        math.prod(info.shape) * (dtype or jnp.dtype(info.dtype)).itemsize for info in component.weights.infos.values()
    )


def require_space(out: Path, needed: int) -> None:
    """Raises CheckpointError if the disk that holds `out` has fewer than `needed` bytes free."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{out} needs {decimal(needed)}, {decimal(free)} are free in {folder}: make room or choose another disk"
        )
