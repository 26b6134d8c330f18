"""Tensors by name that are read from source files, or drawn, when they are asked for, and are not kept."""

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import jax
import numpy as np
from flax import nnx

from con360av_jax.config.settings import ModelConfig
from con360av_jax.models import functional
from con360av_jax.models.functional import Params, flatten
from con360av_jax.models.joint import additions
from convert.torch_files.folders import Component
from convert.torch_files.weights import TensorInfo, require_finite


@dataclass
class Tensors(Mapping[str, np.ndarray]):
    """The tensors of several components under "component.name"; each one read is checked and its origin noted."""

    components: Mapping[str, Component]
    origins: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of every tensor read so far: file, name in it, sha256 of its bytes."""

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """What the files' headers say."""
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
    """Parameters of the joint model that no file brings, drawn group by group: connectors alone are two gigabytes."""

    model: ModelConfig
    drawn: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    """What is left of the group that was drawn last, by path."""

    def take(self, path: str) -> np.ndarray:
        """The parameter at `path` ("film/.."); it is not kept, and one group after the other wants the least memory."""
        if path not in self.drawn:
            # Never two groups at once.
            self.drawn.clear()
            group = initial_additions(self.model, path.split("/")[0])
            self.drawn = {name: np.asarray(leaf) for name, leaf in flatten(group).items()}
        return self.drawn.pop(path)


def initial_additions(model: ModelConfig, group: str) -> Params:
    """Fresh modules of the joint model, nested by their paths in it; the same ones whatever else is drawn.

    Args:
        model: settings.
        group: "map_encoder", "film", "connector" or "environment_encoder".
    """
    key = jax.random.fold_in(jax.random.key(0), zlib.crc32(group.encode()))
    return functional.init(lambda rngs: nnx.Dict({group: additions(model, rngs=rngs)[group]()}), key)
