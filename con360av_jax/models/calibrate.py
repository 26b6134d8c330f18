"""Data-dependent initialisation of a random autoencoder: its latents get the statistics of a trained one's.

(1) latents   quant_conv is scaled and shifted per channel: means have mean 0 and variance 1 / scaling_factor^2
(2) posterior quant_conv's log-variances are shifted to the mean of ln (POSTERIOR_STD / scaling_factor)^2
(3) decoding  conv_out is scaled and shifted: latents of that variance decode to the inputs' mean and variance

Published weights need no calibration. Idea: layer-sequential unit-variance initialisation (arXiv 1511.06422).
"""

from collections.abc import Callable

import numpy as np
from jax import Array
from jaxtyping import Float
from numpy import ndarray

from con360av_jax.models.functional import Params, flatten, unflatten

POSTERIOR_STD = 0.05
"""Standard deviation of the posterior relative to that of its means."""

Encode = Callable[[Params, ndarray], tuple[Array, Array]]
Decode = Callable[[Params, ndarray], Array]


def calibrate(
    params: Params,
    encode: Encode,
    decode: Decode,
    inputs: Float[ndarray, "batch height width channel"],
    latents: Float[ndarray, "batch low_h low_w latent"],
    scaling_factor: float,
) -> Params:
    """Returns the autoencoder's parameters after equations 1 to 3.

    Args:
        params: parameters of an AutoencoderKL.
        encode: its encoder; latents are UNSCALED.
        decode: its decoder, of UNSCALED latents.
        inputs: typical inputs, frames in [-1, 1] or log-mels.
        latents: standard normal, of a shape that `decode` accepts.
        scaling_factor: the autoencoder's scaling factor in the config.
    """
    mean, std = (np.asarray(moment, np.float64) for moment in encode(params, inputs))
    axes = (0, 1, 2)
    gain = 1 / (scaling_factor * mean.std(axes))
    log_variance_shift = 2 * np.log(POSTERIOR_STD / scaling_factor) - (2 * np.log(std)).mean(axes)
    flat = flatten(params)
    flat = _affine(flat, "quant_conv", np.append(gain, np.ones_like(gain)),
                   np.append(-mean.mean(axes) * gain, log_variance_shift))  # fmt: skip
    decoded = np.asarray(decode(params, latents / np.float32(scaling_factor)), np.float64)
    gain = inputs.std(axes) / decoded.std(axes)
    return unflatten(_affine(flat, "decoder/conv_out", gain, inputs.mean(axes) - decoded.mean(axes) * gain))


def _affine(flat: Params, layer: str, gain: ndarray, shift: ndarray) -> Params:
    """`flat` with the outputs of a linear or convolution layer turned from y to gain * y + shift."""
    kernel, bias = (np.asarray(flat[f"{layer}/{name}"], np.float64) for name in ("kernel", "bias"))
    changed = {f"{layer}/kernel": kernel * gain, f"{layer}/bias": bias * gain + shift}
    return flat | {path: value.astype(np.float32) for path, value in changed.items()}
