"""con360av-jax: controllable audio-visual generation from 360° video in JAX."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from con360av_jax.config.files import load_config
    from con360av_jax.config.settings import Config, MeshConfig, SamplerConfig
    from con360av_jax.denoiser import DenoiserInputs
    from con360av_jax.errors import Con360Error
    from con360av_jax.model import Con360AV, load
    from con360av_jax.sample import Clip
    from con360av_jax.sphere.viewpoint import Viewpoint, read_trajectory

__all__ = [
    "Clip",
    "Con360AV",
    "Con360Error",
    "Config",
    "DenoiserInputs",
    "MeshConfig",
    "SamplerConfig",
    "Viewpoint",
    "load",
    "load_config",
    "read_trajectory",
]

_HOME = {
    "Clip": "sample",
    "Con360AV": "model",
    "Con360Error": "errors",
    "Config": "config.settings",
    "DenoiserInputs": "denoiser",
    "MeshConfig": "config.settings",
    "SamplerConfig": "config.settings",
    "Viewpoint": "sphere.viewpoint",
    "load": "model",
    "load_config": "config.files",
    "read_trajectory": "sphere.viewpoint",
}


def __getattr__(name: str) -> object:
    # Importing JAX takes seconds, so each name is imported when it is first used.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
