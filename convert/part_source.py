"""The source of every parameter of one part of a pretrained folder: a file's tensor, or a fresh initialisation.

Parameters are read or drawn one at a time, when they are written, and not kept.
"""

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import jax
import numpy as np
from flax import nnx

from con360av_jax.base.parts import part_factory
from con360av_jax.config.settings import Config, ModelConfig
from con360av_jax.models import functional
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.models.joint import additions
from convert.rules import Table, to_jax, under
from convert.skipped import require_formulas
from convert.tables.joint import CONNECTORS, UNET
from convert.tables.motion import ANIMATEDIFF, MOTION_ADAPTER
from convert.tables.text import CLAP_TEXT, CLIP_TEXT
from convert.tables.vae import VAE
from convert.tables.vocoder import VOCODER
from convert.torch_files.folders import Component, Sources
from convert.torch_files.weights import TensorInfo, cast_floating, require_finite

# Parameters that no published file holds; connectors are among them where the baseline's are not given.
CONTROL = r"(map_encoder|film)/.*"
CONTROL_AND_CONNECTORS = r"(map_encoder|film|connector|environment_encoder)/.*"

PART_TABLES: dict[str, tuple[str, Table]] = {
    "vae_audio": ("vae_a", VAE),
    "vae_video": ("vae_v", VAE),
    "text_audio": ("text_encoder_a", CLAP_TEXT),
    "text_video": ("text_encoder_v", CLIP_TEXT),
    "vocoder": ("vocoder", VOCODER),
}


@dataclass
class Tensors(Mapping[str, np.ndarray]):
    """Tensors of several components under "component.name"; reading one checks it and records its origin."""

    components: Mapping[str, Component]
    origins: dict[str, dict[str, str]] = field(default_factory=dict)
    """File, name in it and sha256 of the bytes of every tensor read so far."""

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """Shape, dtype and file of every tensor, from the files' headers."""
        return {f"{name}.{key}": component.weights.infos[key]
                for name, component in self.components.items() for key in component.weights}  # fmt: skip

    def __getitem__(self, name: str) -> np.ndarray:
        component, _, key = name.partition(".")
        weights = self.components[component].weights
        tensor = weights[key]
        require_finite(f"{weights.path}: {key}", tensor)
        digest = hashlib.sha256(np.ascontiguousarray(tensor).view(np.uint8).data).hexdigest()
        self.origins[name] = {"file": str(weights.infos[key].file), "key": key, "sha256": digest}
        return tensor

    def __iter__(self) -> Iterator[str]:
        return (f"{name}.{key}" for name, component in self.components.items() for key in component.weights)

    def __len__(self) -> int:
        return sum(len(component.weights) for component in self.components.values())


@dataclass
class FreshAdditions:
    """Parameters of the joint model that no file holds, drawn group by group: connectors alone are two gigabytes."""

    model: ModelConfig
    drawn: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    """Parameters of the last drawn group that were not taken yet, by path."""

    def take(self, path: str) -> np.ndarray:
        """Returns the parameter at `path` ("film/...") without keeping it; needs the least memory group after group."""
        if path not in self.drawn:
            self.drawn.clear()  # so that never two groups are in memory
            group = initial_additions(self.model, path.split("/")[0])
            self.drawn = {name: np.asarray(leaf) for name, leaf in flatten(group).items()}
        return self.drawn.pop(path)


def initial_additions(model: ModelConfig, group: str) -> Params:
    """Freshly initialised modules of the joint model, nested by their paths; independent of the other groups.

    Args:
        model: settings of the networks.
        group: "map_encoder", "film", "connector" or "environment_encoder".
    """
    key = jax.random.fold_in(jax.random.key(0), zlib.crc32(group.encode()))
    return functional.init(lambda rngs: nnx.Dict({group: additions(model, rngs=rngs)[group]()}), key)


class PartSource:
    """The sources of one part's parameters, checked to be complete and to fit before any tensor is read.

    Args:
        part: name of the part (con360av_jax.base.parts.PARTS).
        sources: published weights to convert.
        config: config of the pretrained folder.
        dtype: dtype of all floating-point parameters; None keeps what the files store.

    Raises CheckpointError listing every name and shape that does not fit.
    """

    def __init__(self, part: str, sources: Sources, config: Config, dtype: np.dtype | None):
        wanted = flatten(functional.abstract(part_factory(part, config))[1])
        self.shapes = {path: leaf.shape for path, leaf in wanted.items()}
        self.tensors = Tensors(part_components(part, sources))
        self.table = part_table(part, sources)
        self.dtype = dtype
        self.filled = to_jax(self.tensors, self.table, self.shapes, optional=_optional(part, sources))
        self.fresh = FreshAdditions(config.model)

    def require_formulas(self) -> None:
        """Raises CheckpointError naming every skipped tensor that the model would not compute (convert/skipped.py)."""
        require_formulas(self.tensors, self.table)

    def params(self) -> Params:
        """Parameter tree for `write_pretrained`: leaves are functions that read or draw a tensor."""
        return unflatten({path: partial(self._read, path) for path in self.shapes})

    def _read(self, path: str) -> np.ndarray:
        return cast_floating(self.filled[path] if path in self.filled else self.fresh.take(path), self.dtype)

    def origin(self, path: str) -> dict[str, str]:
        """File, name in it and sha256 of a parameter that was read; empty for one that was drawn."""
        return self.tensors.origins[self.filled.placed[path][0]] if path in self.filled else {}


def part_components(part: str, sources: Sources) -> dict[str, Component]:
    """The source components of one part, by name."""
    if part != "joint":
        return {PART_TABLES[part][0]: sources.components[PART_TABLES[part][0]]}
    names = ("unet_a", "unet_v", "motion", "unet_svg")
    return {name: sources.components[name] for name in names if name in sources.components}


def part_table(part: str, sources: Sources) -> Table:
    """Conversion rules of one part; source names begin with the component's name."""
    if part != "joint":
        component, table = PART_TABLES[part]
        return tuple(under(component, "", table))
    motion = sources.components.get("motion")
    original = motion is not None and any("temporal_transformer" in name for name in motion.weights)
    return (
        *under("unet_a", "unet.audio", UNET),
        *under("unet_v", "unet.video", UNET),
        *under("motion", "", ANIMATEDIFF if original else MOTION_ADAPTER),
        *under("unet_svg", "", CONNECTORS),
    )


def _optional(part: str, sources: Sources) -> str:
    if part != "joint":
        return r"(?!)"
    return CONTROL if "unet_svg" in sources.components else CONTROL_AND_CONNECTORS
