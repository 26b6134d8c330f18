"""Scores of classes and envelopes on held-out data, and the blur of generated clips, for the objectives of both judges.

(1) F1          2 TP / (2 TP + FP + FN) over all classes and rows
(2) agreement   Pearson's correlation of judged and true envelopes
"""

from collections.abc import Mapping

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from con360av_jax.train.objectives.objective import Sums

BLURRED, MOST_BLUR = 0.6, 1.8
"""Share of blurred training examples, and the largest standard deviation of the Gaussian, pixels or mel cells."""


def cross_entropy(logits: Float[Array, "..."], wanted: Float[Array, "..."]) -> Float[Array, "..."]:
    """Binary cross-entropy of probabilities in [0, 1], nats."""
    return jax.nn.softplus(logits) - logits * wanted


def class_sums(found: Bool[Array, "..."], there: Bool[Array, "..."]) -> Sums:
    """Sums of equation (1)."""
    return {
        "hits": jnp.sum((found & there).astype(jnp.float32)),
        "found": jnp.sum(found.astype(jnp.float32)),
        "there": jnp.sum(there.astype(jnp.float32)),
    }


def f1(sums: Mapping[str, float]) -> float:
    """Equation (1), from `class_sums`; 0 without any class."""
    return 2 * sums["hits"] / max(sums["found"] + sums["there"], 1.0)


def envelope_sums(judged: Float[Array, "..."], true: Float[Array, "..."], weight: Float[Array, "..."]) -> Sums:
    """Weighted sums of equation (2)."""
    return {
        "envelopes": jnp.sum(weight),
        "judged": jnp.sum(weight * judged),
        "true": jnp.sum(weight * true),
        "judged_squares": jnp.sum(weight * jnp.square(judged)),
        "true_squares": jnp.sum(weight * jnp.square(true)),
        "products": jnp.sum(weight * judged * true),
    }


def agreement(sums: Mapping[str, float]) -> float:
    """Equation (2), from `envelope_sums`; 0 where one of both does not vary."""
    n = max(sums["envelopes"], 1.0)
    both = sums["products"] / n - sums["judged"] * sums["true"] / n**2
    spread = [sums[f"{name}_squares"] / n - (sums[name] / n) ** 2 for name in ("judged", "true")]
    return float(both / np.sqrt(spread[0] * spread[1])) if min(spread) > 1e-12 else 0.0


def smeared(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """BLURRED of the images with a Gaussian blur of random width; float32 (height width ...)."""
    if random.random() >= BLURRED:
        return image
    return cv2.GaussianBlur(image, (0, 0), float(random.uniform(0.3, MOST_BLUR)))


def clouds(shape: tuple[int, int, int], cells: int, random: np.random.Generator) -> np.ndarray:
    """Smooth noise of about unit variance with `cells` blobs along each axis, float32 (height width channel)."""
    height, width, channels = shape
    coarse = random.standard_normal((cells, cells, channels)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(shape)
