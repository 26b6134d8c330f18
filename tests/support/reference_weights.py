"""The public baseline's tiny model (tests/reference): its weights by their rule, its inputs and its outputs.

The weights are made under the baseline's names and shapes and go through the real conversion table.
"""

import json
import zlib
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array

from con360av_jax.config.settings import (
    AudioUNetConfig,
    Config,
    ConnectorConfig,
    ModelConfig,
    UNetLevel,
    VideoUNetConfig,
)
from con360av_jax.models.functional import Params, abstract, flatten, unflatten
from con360av_jax.models.joint import JointModel
from convert.rules import to_jax
from convert.tables.joint import JOINT
from tests.support.paths import REFERENCE

FOLDER = REFERENCE
# Ours are channels-last; in the baseline's sound, height is time and width is mel.
LAYOUTS = {"audio": "b c t m -> b t m c", "video": "b c f h w -> b f h w c"}
SHAPES = {"audio": (2, 8, 24, 16), "video": (2, 4, 4, 8, 8)}


class Reference(NamedTuple):
    """The tiny baseline in our layout; `outputs` are channels-last where the baseline's are channels-first."""

    graphdef: "nnx.GraphDef[JointModel]"
    params: Params
    latents: dict[str, Array]
    clean_estimates: dict[str, Array]
    text: dict[str, Array]
    negative_text: dict[str, Array]
    settings: dict[str, Any]
    outputs: dict[str, np.ndarray]


def reference_model(tiny: Config) -> Reference:
    """Everything of the fixture; `tiny` gives what the fixture does not set."""
    fixture = read_fixture()
    graphdef, shapes = abstract(lambda rngs: JointModel(reference_config(tiny), rngs=rngs))
    return Reference(
        graphdef=graphdef,
        params=converted_params(baseline_weights(fixture["parameters"]), shapes),
        latents=_latents("latent"),
        clean_estimates=_latents("x0"),
        text={"audio": _unit(_normal("tiny/clap_text", (2, 32))), "video": _normal("tiny/clip_text", (2, 7, 32))},
        negative_text={
            "audio": _unit(_normal("tiny/neg_clap", (2, 32))),
            "video": _normal("tiny/neg_clip", (2, 7, 32)),
        },
        settings=fixture["config"],
        outputs=_outputs(),
    )


def read_fixture() -> dict[str, Any]:
    """The settings and every parameter's name and PyTorch shape."""
    return json.loads((FOLDER / "dual_unet_tiny.json").read_text())


def reference_config(tiny: Config) -> ModelConfig:
    """Four levels of width 64, one layer, 8 heads; connectors of 32 channels; text of width 32."""
    level = UNetLevel(width=64, layers=1, heads=8)
    plain = replace(level, attention=False)
    text = tiny.model.text
    return replace(
        tiny.model,
        unet_audio=AudioUNetConfig(levels=(plain, level, level, level), class_width=32),
        unet_video=VideoUNetConfig(levels=(level, level, level, plain), context_width=32, motion_mid_block=True),
        connector=ConnectorConfig(channels=32),
        text=replace(text, audio=replace(text.audio, projection=32), video=replace(text.video, width=32)),
    )


def baseline_weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Every tensor by the rule of the fixture's README."""
    return {name: _weight(name, shape) for name, shape in shapes.items()}


def converted_params(weights: dict[str, np.ndarray], shapes: Params) -> Params:
    """The joint model's parameters; FiLM and Map Encoder, which the baseline does not have, are zero."""
    wanted = {path: leaf.shape for path, leaf in flatten(shapes).items()}
    found = to_jax(weights, JOINT, wanted, optional=r"map_encoder/.*|film/.*")
    zeros = {path: np.zeros(shape, np.float32) for path, shape in wanted.items() if path not in found}
    return unflatten({path: jnp.asarray(zeros[path] if path in zeros else found[path]) for path in wanted})


def _outputs() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "dual_unet_tiny.npz") as stored:
        outputs = dict(stored)
    return {
        name: value if "timesteps" in name else rearrange(value, LAYOUTS["video" if value.ndim == 5 else "audio"])
        for name, value in outputs.items()
    }


def _normal(name: str, shape: tuple[int, ...]) -> Array:
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return jnp.asarray(random.standard_normal(shape), jnp.float32)


def _unit(x: Array) -> Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _latents(kind: str) -> dict[str, Array]:
    return {name: rearrange(_normal(f"tiny/{name}_{kind}", SHAPES[name]), LAYOUTS[name]) for name in LAYOUTS}


def _weight(name: str, shape: list[int]) -> np.ndarray:
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 1 or name.endswith(".g"):
        return (0.1 * x + name.endswith((".weight", ".g"))).astype(np.float32)
    return (x / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
