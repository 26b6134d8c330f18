"""Loss of a variational autoencoder of images or log-mels x, by its moments and its reconstruction.

(1) latent          z = mu + s * noise,   x' = decoder(z)
(2) reconstruction  R = sum_p w_p |x_p - x'_p| / sum_p w_p                      p: values of a row, w: their weights
(3) gradients       G = the same of the differences between neighbours along the height, plus that along the width
(4) divergence      K = 1/2 sum_i (mu_i^2 + s_i^2 - 1 - ln s_i^2) / P           i: values of the latent, P: of x
(5) loss            R + gradient_weight G + kl_weight K

(1) and (4): Kingma and Welling 2014, section 3 and appendix B. The small weight of (4) is that of Rombach et al. 2022,
appendix G, who also have an adversarial loss, and sums over x where means stand here. (3): Mathieu et al. 2016,
equation 6, without its inner absolute values, so that the sign of an edge counts.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from con360av_jax.base.networks import VAEDecode, VAEEncode
from con360av_jax.models.functional import Params
from con360av_jax.train.objectives.objective import Keys, Sums, noise

Images = Float[Array, "batch height width channel"]
Weights = Float[Array, "batch height width"]


def vae_loss(
    encode: VAEEncode,
    decode: VAEDecode,
    params: Params,
    x: Images,
    weight: Weights,
    keys: Keys,
    gradient_weight: float,
    kl_weight: float,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns equation (5) as a mean over rows, and its terms "l1" (2), "gradient" (3) and "kl" (4)."""
    mean, std = encode(params, x)
    difference = x - decode(params, mean + std * noise(keys, mean))
    terms = {
        "l1": reconstruction(difference, weight),
        "gradient": gradients(difference, weight),
        "kl": divergence(mean, std) / (x.size // x.shape[0]),
    }
    loss = jnp.mean(terms["l1"] + gradient_weight * terms["gradient"] + kl_weight * terms["kl"])
    return loss, {"loss": loss, **{name: jnp.mean(term) for name, term in terms.items()}}


def reconstruction(difference: Images, weight: Weights) -> Float[Array, "batch"]:
    """Equation (2) of each row, from x - x'."""
    return jnp.sum(jnp.mean(jnp.abs(difference), -1) * weight, (1, 2)) / jnp.sum(weight, (1, 2))


def gradients(difference: Images, weight: Weights) -> Float[Array, "batch"]:
    """Equation (3) of each row, from x - x'; the gradient of a difference is the difference of the gradients."""
    rows = reconstruction(jnp.diff(difference, axis=1), weight[:, 1:])
    return rows + reconstruction(jnp.diff(difference, axis=2), weight[:, :, 1:])


def divergence(mean: Images, std: Images) -> Float[Array, "batch"]:
    """Equation (4) of each row, not divided by P: KL(N(mean, std^2) || N(0, 1)), nats."""
    return 0.5 * jnp.sum(jnp.square(mean) + jnp.square(std) - 1 - 2 * jnp.log(std), (1, 2, 3))


def shown_frames(decoded: Float[Array, "... 3"]) -> UInt8[Array, "... 3"]:
    """Decoded frames in [-1, 1] as bytes."""
    return jnp.rint((jnp.clip(decoded, -1.0, 1.0) + 1) * 127.5).astype(jnp.uint8)


def latent_sums(mean: Images, std: Images) -> Sums:
    """Sums over a batch from which `latent_std` follows."""
    return {
        "latent_sum": jnp.sum(mean),
        "latent_squares": jnp.sum(jnp.square(mean) + jnp.square(std)),
        "latent_values": jnp.float32(mean.size),
    }


def latent_std(total: float, squares: float, values: float) -> float:
    """Standard deviation of all values of z (1), from the sums of `latent_sums`; its inverse is the scaling factor."""
    return float((squares / values - (total / values) ** 2) ** 0.5)
