"""The joint model of a config as a pure function of its parameters: what the train step and the sampler call."""

from functools import lru_cache, partial
from typing import Protocol

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.diffusion.guidance import Text, Timesteps
from con360av_jax.diffusion.process import Latents
from con360av_jax.models import functional
from con360av_jax.models.functional import Params
from con360av_jax.models.joint import JointModel


class Denoiser(Protocol):
    """Predictions of the noise in `latents`; the arguments are those of `JointModel.__call__`."""

    def __call__(
        self,
        params: Params,
        latents: Latents,
        timesteps: Timesteps,
        text: Text,
        clean_estimates: Latents | None = None,
        connector_timesteps: Timesteps | None = None,
        connector_latents: Latents | None = None,
        maps: Float[Array, "batch frame height width 2"] | None = None,
        map_mask: Bool[Array, "batch"] | None = None,
        modalities: tuple[str, ...] = MODALITIES,
    ) -> Latents: ...


@lru_cache(maxsize=8)
def joint_model(config: Config) -> tuple[Denoiser, Params]:
    """The joint model as a function, and its parameters' shapes (jax.ShapeDtypeStruct); nothing is allocated."""

    def build(rngs: nnx.Rngs) -> JointModel:
        return JointModel(
            config.model,
            rngs=rngs,
            compute_dtype=jnp.dtype(config.train.compute_dtype),
            remat=config.train.remat,
        )

    graphdef, shapes = functional.abstract(build)
    return partial(functional.apply, graphdef), shapes
