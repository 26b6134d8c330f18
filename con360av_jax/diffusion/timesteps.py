"""Distribution of the timesteps that a training step draws."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from con360av_jax.config.settings import TrainConfig


def draw_timesteps(key: Key[Array, ""], shape: tuple[int, ...], total: int, config: TrainConfig) -> Int[Array, "..."]:
    """Timesteps from 0 to total - 1, each drawn on its own by `config.timesteps`.

    uniform       every timestep alike (Ho et al. 2020, algorithm 1)
    logit_normal  floor(total sigmoid(m + s n)) with n ~ N(0, 1), m `timestep_location` and s `timestep_scale`: of
                  nearly clean latents and of nearly pure noise there is less to learn (Esser et al. 2024, arXiv
                  2403.03206, equation 19)
    """
    if config.timesteps == "uniform":
        return jax.random.randint(key, shape, 0, total, jnp.int32)
    logit = config.timestep_location + config.timestep_scale * jax.random.normal(key, shape, jnp.float32)
    # The sigmoid of a float32 can round to 1.
    return jnp.minimum(jnp.int32(total * jax.nn.sigmoid(logit)), total - 1)
