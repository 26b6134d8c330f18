"""I3D a second time: the tensors of a published file, and the network in JAX with its own SAME padding."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.support.torch_weights import norm_shapes

Shapes = dict[str, tuple[int, ...]]
# The six widths of each block, as they stand in the published code.
BLOCKS = {
    "3b": [64, 96, 128, 16, 32, 32], "3c": [128, 128, 192, 32, 96, 64], "4b": [192, 96, 208, 16, 48, 64],
    "4c": [160, 112, 224, 24, 64, 64], "4d": [128, 128, 256, 24, 64, 64], "4e": [112, 144, 288, 32, 64, 64],
    "4f": [256, 160, 320, 32, 128, 128], "5b": [256, 160, 320, 32, 128, 128], "5c": [384, 192, 384, 48, 128, 128],
}  # fmt: skip


def published_shapes() -> Shapes:
    """Every key of pytorch-i3d's file and its shape, written from what is known of it and not from our network."""
    shapes: Shapes = {}

    def unit(name: str, before: int, after: int, size: int) -> None:
        shapes[f"{name}.conv3d.weight"] = (after, before, size, size, size)
        shapes.update(norm_shapes(f"{name}.bn", after))

    unit("Conv3d_1a_7x7", 3, 64, 7)
    unit("Conv3d_2b_1x1", 64, 64, 1)
    unit("Conv3d_2c_3x3", 64, 192, 3)
    before = 192
    for block, (b0, b1a, b1b, b2a, b2b, b3b) in BLOCKS.items():
        for branch, (first, last, size) in {
            "b0": (before, b0, 1), "b1a": (before, b1a, 1), "b1b": (b1a, b1b, 3), "b2a": (before, b2a, 1),
            "b2b": (b2a, b2b, 3), "b3b": (before, b3b, 1),
        }.items():  # fmt: skip
            unit(f"Mixed_{block}.{branch}", first, last, size)
        before = b0 + b1b + b2b + b3b
    return shapes | {"logits.conv3d.weight": (400, 1024, 1, 1, 1), "logits.conv3d.bias": (400,)}


def scores(state: Mapping[str, np.ndarray], clip: np.ndarray) -> np.ndarray:
    """The 400 scores of a clip (3, frame, row, column)."""

    def unit(name: str, x: jnp.ndarray, stride: int = 1) -> jnp.ndarray:
        kernel = jnp.asarray(state[f"{name}.conv3d.weight"])
        x = lax.conv_general_dilated(x, kernel, (stride,) * 3, "SAME")
        weight, bias, mean, variance = (
            jnp.asarray(state[f"{name}.bn.{kind}"])[None, :, None, None, None]
            for kind in ("weight", "bias", "running_mean", "running_var")
        )
        return jnp.maximum((x - mean) / jnp.sqrt(variance + 0.001) * weight + bias, 0)

    def pool(x: jnp.ndarray, size: tuple[int, int, int], stride: tuple[int, int, int]) -> jnp.ndarray:
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, *size), (1, 1, *stride), "SAME")

    x = unit("Conv3d_1a_7x7", jnp.asarray(clip)[None], 2)
    x = unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", pool(x, (1, 3, 3), (1, 2, 2))))
    x = pool(x, (1, 3, 3), (1, 2, 2))
    for block in BLOCKS:
        x = pool(x, (3, 3, 3), (2, 2, 2)) if block == "4b" else x
        x = pool(x, (2, 2, 2), (2, 2, 2)) if block == "5b" else x
        name = f"Mixed_{block}"
        x = jnp.concatenate(
            [
                unit(f"{name}.b0", x),
                unit(f"{name}.b1b", unit(f"{name}.b1a", x)),
                unit(f"{name}.b2b", unit(f"{name}.b2a", x)),
                unit(f"{name}.b3b", pool(x, (3, 3, 3), (1, 1, 1))),
            ],
            axis=1,
        )
    x = np.asarray(x)[0].astype(np.float64)
    # Two neighbouring steps of time and all 7x7 places, then all times.
    means = np.stack([x[:, step : step + 2].mean(axis=(1, 2, 3)) for step in range(x.shape[1] - 1)])
    kernel = state["logits.conv3d.weight"][:, :, 0, 0, 0].astype(np.float64)
    return (means @ kernel.T + state["logits.conv3d.bias"]).mean(axis=0)
