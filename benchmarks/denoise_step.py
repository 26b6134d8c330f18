"""One joint denoising step at published width, converted JAX against the two U-Nets in PyTorch, one clip.

    python -m benchmarks.denoise_step --frames 8 --out benchmarks/results/denoise_step_cpu.json

"jax" is both U-Nets with converted weights, "torch eager" the same two networks in diffusers, and "jax joint" the whole
model: both U-Nets with environment encoders, connectors, Map Encoder and FiLM between them. No public library runs the
connectors; the ratio of the whole model is against the two U-Nets alone.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import comparison, harness
from con360av_jax.config.files import load_config
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES, latent_shapes, padded_time
from con360av_jax.denoiser import DenoiserInputs, Latents
from con360av_jax.models import functional
from con360av_jax.models.functional import KeyStream, Params
from con360av_jax.models.joint import additions, joint_model
from convert.torch_files.weights import cast_floating

UNETS = {"audio": "unet_a", "video": "unet_v"}


def inputs(config: Config) -> DenoiserInputs:
    """Random inputs of the joint model for one clip, float32."""
    random, model, clip = np.random.default_rng(0), config.model, config.clip
    shapes = latent_shapes(config)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(random.standard_normal(shape, np.float32))

    return DenoiserInputs(
        latents={name: normal(1, *shapes[name]) for name in MODALITIES},
        timesteps={name: jnp.full((1,), 500, jnp.int32) for name in MODALITIES},
        text={
            "audio": normal(1, model.unet_audio.class_width),
            "video": normal(1, model.text.video.tokens, model.unet_video.context_width),
        },
        clean_estimates={name: normal(1, *shapes[name]) for name in MODALITIES},
        maps=jnp.asarray(random.random((1, clip.frames, clip.map_height, clip.map_width, 2), np.float32)),
    )


def torch_step(
    models: dict[str, Any], inputs: DenoiserInputs, dtype: str, device: str | None = None
) -> Callable[[], dict[str, Any]]:
    """Both U-Nets of diffusers, one after the other, on the same arguments."""
    given: Any = jax.tree.map(np.array, inputs)
    # Our model pads the audio's time until it halves evenly; diffusers gets the padded latent.
    sound = given.latents["audio"]
    sound = np.pad(sound, ((0, 0), (0, padded_time(sound.shape[1]) - sound.shape[1]), (0, 0), (0, 0)))
    picture, text = given.latents["video"], given.text["video"]
    arguments = {
        "audio": (np.moveaxis(sound, -1, 1), given.timesteps["audio"], given.text["audio"]),
        # AnimateDiff's pipeline repeats the text for every frame, the network does not.
        "video": (
            np.moveaxis(picture, -1, 1),
            given.timesteps["video"],
            np.repeat(text, picture.shape[1], axis=0),
        ),
    }
    runs = {
        "audio": lambda unet, x, t, text: unet(x, t, encoder_hidden_states=None, class_labels=text).sample,
        "video": lambda unet, x, t, text: unet(x, t, encoder_hidden_states=text).sample,
    }
    steps = {name: comparison.theirs(models[name], runs[name], arguments[name], dtype, device) for name in MODALITIES}
    return lambda: {name: step() for name, step in steps.items()}


def parameters(config: Config, models: dict[str, Any], dtype: str) -> Params:
    """Converted U-Nets; freshly initialised connectors, Map Encoder and FiLM."""
    # The largest first: it is in memory twice while it is converted.
    params: Params = {"unet": {}}
    for name in ("video", "audio"):
        params["unet"][name] = comparison.convert(UNETS[name], config, models[name], dtype)[1]
    builders: Any = additions(config.model, rngs=KeyStream(jax.random.key(0)))
    for name, build in builders.items():
        fresh = functional.split(build())[1]
        params[name] = jax.tree.map(lambda leaf: jnp.asarray(cast_floating(np.asarray(leaf), np.dtype(dtype))), fresh)
    return params


def errors(found: dict[str, Any], wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """Relative L2 error of each modality's noise prediction."""
    return {
        name: comparison.relative_error(np.asarray(found[name].astype(jnp.float32)), wanted[name])
        for name in MODALITIES
    }


def main() -> None:
    """Times, compares and publishes."""
    parser = harness.comparison_parser(__doc__)
    parser.add_argument("--frames", type=int, default=8, help="video frames of the clip; its audio is unchanged")
    arguments = parser.parse_args()
    harness.prepare()
    config = load_config(arguments.config)
    if arguments.frames % config.clip.seconds:
        parser.error(
            f"--frames {arguments.frames} given, but a clip of {config.clip.seconds} s has whole frames a second"
        )
    config = replace(config, clip=replace(config.clip, frames_per_second=arguments.frames // config.clip.seconds))
    results: harness.Json = {**harness.environment(config), "dtype": arguments.dtype}
    results["cases"] = {f"denoise, {arguments.frames} frames": compare(config, arguments)}
    harness.publish(results, arguments.out)


def reference(models: dict[str, Any], given: DenoiserInputs) -> dict[str, np.ndarray]:
    """The original's noise predictions in float32 on the CPU, in our layout."""
    found = torch_step(models, given, "float32", device="cpu")()
    ours = {name: np.moveaxis(comparison.as_numpy(noise), 1, -1) for name, noise in found.items()}
    return {**ours, "audio": ours["audio"][:, : given.latents["audio"].shape[1]]}


def compare(config: Config, arguments: Any) -> harness.Json:
    """Times all programs and compares the U-Nets' outputs with the original's in float32 on the CPU."""
    import torch

    given = inputs(config)
    models = {name: comparison.build(component, config) for name, component in UNETS.items()}
    params = parameters(config, models, arguments.dtype)
    denoise, _ = joint_model(config, arguments.dtype)

    def unets(params: Params, inputs: DenoiserInputs) -> Latents:
        # One modality alone runs without connectors.
        return {name: denoise(params, replace(inputs, modalities=(name,)))[name] for name in MODALITIES}

    with ThreadPoolExecutor() as threads:  # compile while PyTorch computes the reference
        compiling = threads.submit(comparison.compiled, unets, params, given)
        compiling_joint = threads.submit(comparison.compiled, denoise, params, given)
        wanted = reference(models, given)
    run, program = compiling.result()
    run_joint, joint_program = compiling_joint.result()
    programs: dict[str, Callable[[], object]] = {
        harness.OURS: run,
        "torch eager": torch_step(models, given, arguments.dtype),
        "jax joint": run_joint,
    }
    if arguments.torch_compile:
        faster = {name: torch.compile(model) for name, model in models.items()}
        programs["torch.compile"] = torch_step(faster, given, arguments.dtype)
    found: Any = run()
    seconds = harness.interleaved(programs, arguments.rounds, "denoise")
    difference = errors(found, wanted)
    return harness.case(
        seconds,
        ratios=harness.ratios(seconds),
        errors={f"{harness.OURS} {name}": error for name, error in difference.items()},
        compiled={harness.OURS: program, "jax joint": joint_program},
    )


if __name__ == "__main__":
    main()
