"""con360av-jax: controllable audio-visual generation from 360° video in JAX."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from con360av_jax.config import Config, MeshConfig, SamplerConfig
    from con360av_jax.config_io import load_config
    from con360av_jax.errors import Con360Error
    from con360av_jax.pipeline import Con360AV, load
    from con360av_jax.sample import Clip
    from con360av_jax.viewpoint import Viewpoint, read_trajectory

__all__ = [
    "Clip",
    "Con360AV",
    "Con360Error",
    "Config",
    "MeshConfig",
    "SamplerConfig",
    "Viewpoint",
    "load",
    "load_config",
    "read_trajectory",
]

_HOME = {
    "Clip": "sample",
    "Con360AV": "pipeline",
    "Con360Error": "errors",
    "Config": "config",
    "MeshConfig": "config",
    "SamplerConfig": "config",
    "Viewpoint": "viewpoint",
    "load": "pipeline",
    "load_config": "config_io",
    "read_trajectory": "viewpoint",
}


def __getattr__(name: str) -> object:
    # JAX and its friends take seconds to import: they come with the first name that needs them.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
