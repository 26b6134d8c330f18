"""FLOPs of one guided sampling step, as XLA counts them in the program before compilation, by config and guidance.

python -m benchmarks.sampler_flops small published --out benchmarks/results/sampler_flops.json
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from con360av_jax.config.files import load_config
from con360av_jax.config.settings import Config, PerModality, SamplerConfig
from con360av_jax.config.shapes import latent_shapes, maps_shape, text_shapes
from con360av_jax.denoiser import Latents
from con360av_jax.diffusion.sampler import sample
from con360av_jax.models.functional import Params
from con360av_jax.models.joint import joint_model

SETTINGS = {
    "text guides": SamplerConfig(steps=2),
    "text and maps guide": SamplerConfig(steps=2, map_guidance=PerModality(audio=2.0, video=2.0)),
    "text guides video alone": SamplerConfig(steps=2, text_guidance=PerModality(audio=1.0, video=7.5)),
    "nothing guides": SamplerConfig(steps=2, text_guidance=PerModality(audio=1.0, video=1.0)),
}


def main() -> None:
    """Counts all settings of all configs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", help="names of configs")
    parser.add_argument("--out", type=Path, help="JSON file with the results")
    options = parser.parse_args()
    configs = [load_config(name) for name in options.configs]
    found = {
        config.name: {label: flops(config, settings) for label, settings in SETTINGS.items()} for config in configs
    }
    harness.publish({"environment": harness.environment(configs[0]), "gflop_per_step": found}, options.out)


def flops(config: Config, settings: SamplerConfig) -> float:
    """GFLOP of one step for one clip; a scan's body is counted once, whatever its length."""
    denoise, params = joint_model(config, "float32")

    def row(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    def run(params: Params, noise: Latents, text: Latents, maps: jax.Array) -> Latents:
        return sample(partial(denoise, params), noise, text, text, maps, config.schedule, settings)

    latents = {name: row(shape) for name, shape in latent_shapes(config).items()}
    text = {name: row(shape) for name, shape in text_shapes(config).items()}
    found: Any = jax.jit(run).lower(params, latents, text, row(maps_shape(config))).cost_analysis()
    return float(found["flops"]) / 1e9


if __name__ == "__main__":
    main()
