"""The forward process q(x_t | x_0), conversions between what a model can predict, and keys by name.

With a = alpha_bar_t and eps ~ N(0, I):

    (1) x_t = sqrt(a) x_0 + sqrt(1 - a) eps
    (2) v   = sqrt(a) eps - sqrt(1 - a) x_0

x_t and any one of x_0, eps, v determine the others linearly. Sources: Ho et al. 2020, eq. 4; Salimans and Ho 2022,
appendix D.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from con360av_jax.denoiser import Latents

AlphaBars = Mapping[str, Float[Array, ""] | Float[Array, "batch"]]
Prediction = Literal["epsilon", "x0", "v"]
Coefficients = Callable[[Array, Array], tuple[Array, Array]]

# (given, wanted): coefficients (c_x, c_p) of wanted = c_x x_t + c_p given, from s = sqrt(a) and n = sqrt(1 - a).
CONVERSIONS: dict[tuple[Prediction, Prediction], Coefficients] = {
    ("epsilon", "x0"): lambda s, n: (1.0 / s, -n / s),
    ("epsilon", "v"): lambda s, n: (-n / s, 1.0 / s),
    ("x0", "epsilon"): lambda s, n: (1.0 / n, -s / n),
    ("x0", "v"): lambda s, n: (s / n, -1.0 / n),
    ("v", "epsilon"): lambda s, n: (n, s),
    ("v", "x0"): lambda s, n: (s, -n),
}


def _roots(a: Array, like: Array) -> tuple[Array, Array]:
    """sqrt(a) and sqrt(1 - a), one per sample or one for all, shaped to multiply `like`."""
    a = jnp.expand_dims(jnp.asarray(a, jnp.float32), tuple(range(jnp.ndim(a), like.ndim)))
    return jnp.sqrt(a), jnp.sqrt(1.0 - a)


def add_noise(x_0: Latents, eps: Latents, a: AlphaBars) -> Latents:
    """Equation (1) for every modality, in float32. `a`: one number per sample, or one for the whole batch."""

    def noised(x_0: Array, eps: Array, a: Array) -> Array:
        s, n = _roots(a, x_0)
        return s * x_0.astype(jnp.float32) + n * eps.astype(jnp.float32)

    return {name: noised(x_0[name], eps[name], a[name]) for name in x_0}


def convert(
    given: Prediction | Mapping[str, Prediction],
    wanted: Prediction | Mapping[str, Prediction],
    prediction: Latents,
    x_t: Latents,
    a: AlphaBars,
) -> Latents:
    """A model's `prediction` of kind `given` as kind `wanted`, each for all modalities or by modality, in float32.

    A prediction that is of the wanted kind stays as it is. Undefined where the equations are: x_0 from eps at a = 0,
    eps from x_0 at a = 1.
    """

    def converted(name: str) -> Array:
        kinds = _kind(given, name), _kind(wanted, name)
        if kinds[0] == kinds[1]:
            return prediction[name]
        from_x_t, from_prediction = CONVERSIONS[kinds](*_roots(a[name], x_t[name]))
        return from_x_t * x_t[name].astype(jnp.float32) + from_prediction * prediction[name].astype(jnp.float32)

    return {name: converted(name) for name in x_t}


def _kind(kinds: Prediction | Mapping[str, Prediction], name: str) -> Prediction:
    return kinds if isinstance(kinds, str) else kinds[name]


def named_key(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """Key for one purpose or modality, independent of the number and order of the others."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def draw_noise(key: Key[Array, ""], shapes: Mapping[str, tuple[int, ...]]) -> Latents:
    """Standard normal float32 arrays, each from the key of its modality's name."""
    return {name: jax.random.normal(named_key(key, name), shape, jnp.float32) for name, shape in shapes.items()}
