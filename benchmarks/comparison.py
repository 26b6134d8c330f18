"""Comparison of a converted network with the original library's, on the same random weights: errors, then times.

Weights are converted in memory by the converter's own tables; inputs and outputs keep each side's layout.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import harness
from benchmarks.conversion import library_network, networks
from con360av_jax.base.parts import codec_factory
from con360av_jax.config.files import load_config
from con360av_jax.config.settings import Config
from con360av_jax.models import functional
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.models.unet import UNet
from convert.rules import Table, to_jax
from convert.tables.joint import UNET
from convert.tables.text import CLAP_TEXT, CLIP_TEXT
from convert.tables.vae import VAE
from convert.tables.vocoder import VOCODER
from convert.torch_files.weights import cast_floating
from convert.verify.jax_networks import NETWORKS

TABLES: Mapping[str, Table] = {
    "unet_a": UNET,
    "unet_v": UNET,
    "vae_a": VAE,
    "vae_v": VAE,
    "text_encoder_a": CLAP_TEXT,
    "text_encoder_v": CLIP_TEXT,
    "vocoder": VOCODER,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One computation that both sides run."""

    name: str
    component: str
    inputs: tuple[np.ndarray, ...]
    """Arrays in our layout."""
    ours: Callable[..., jax.Array]
    """Maps (module, *inputs) to one output."""
    theirs: Callable[..., Any]
    """Maps (model, *inputs in its layout) to one output."""
    to_theirs: Callable[..., tuple[np.ndarray, ...]]
    """Converts the inputs to the original's layout."""
    from_theirs: Callable[[np.ndarray], np.ndarray]
    """Converts the original's output to our layout."""


def build(component: str, config: Config, seed: int = 0) -> Any:
    """Builds the library's network on the CPU in float32, in evaluation mode, with its random weights."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing diffusers warns about its own dependencies
        from diffusers.utils import logging

        logging.set_verbosity_error()
        torch.manual_seed(seed)
        model = library_network(networks(config)[component])
    return model.eval().requires_grad_(False)


def convert(component: str, config: Config, model: Any, dtype: str) -> tuple["nnx.GraphDef[nnx.Module]", Params]:
    """Builds our network with the original's weights in `dtype`; raises CheckpointError if the tables do not fit."""
    if component.startswith("unet"):
        unet = config.model.unet_audio if component == "unet_a" else config.model.unet_video
        make = partial(_unet, unet, jnp.dtype(dtype))
    else:
        make = codec_factory(NETWORKS[component].part, config.model, dtype)
    graphdef, shapes = functional.abstract(make)
    wanted = {path: leaf.shape for path, leaf in flatten(shapes).items()}
    tensors = to_jax({name: tensor.numpy() for name, tensor in model.state_dict().items()}, TABLES[component], wanted)
    kind = np.dtype(dtype)
    return graphdef, unflatten({path: jnp.asarray(cast_floating(tensors[path], kind)) for path in wanted})


def _unet(unet: Any, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    return UNet(unet, rngs=rngs, dtype=dtype)


def theirs(
    model: Any, run: Callable[..., Any], inputs: tuple[np.ndarray, ...], dtype: str, device: str | None = None
) -> Callable[[], Any]:
    """Moves the original to `device`, or to JAX's; the returned call waits for its result."""
    import torch

    device = device or ("cuda" if jax.default_backend() == "gpu" else "cpu")
    # XLA's default for float32 products and convolutions on a GPU.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    model.to(device=device, dtype=getattr(torch, dtype))
    tensors = [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in inputs]
    tensors = [x.to(getattr(torch, dtype)) if x.is_floating_point() else x.long() for x in tensors]

    def call() -> Any:
        with torch.inference_mode():
            output = run(model, *tensors)
            if device == "cuda":
                torch.cuda.synchronize()
            return output

    return call


def as_numpy(tensor: Any) -> np.ndarray:
    """Copies a tensor to the host as float32."""
    return tensor.float().cpu().numpy()


def compiled(run: Callable[..., Any], *arguments: Any) -> tuple[Callable[[], jax.Array], harness.Json]:
    """Compiles our program; returns the call, and compile time and memory (harness.compiled_row)."""
    start = time.perf_counter()
    program = jax.jit(run).lower(*arguments).compile()
    row = harness.compiled_row(program, time.perf_counter() - start)
    return lambda: jax.block_until_ready(program(*arguments)), row


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """||found - wanted||_2 / ||wanted||_2 in float64."""
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def compare(case: Case, config: Config, rounds: int, dtype: str, torch_compile: bool) -> harness.Json:
    """Times one case on both sides in `dtype` and compares ours, and PyTorch's, with float32."""
    import torch

    model = build(case.component, config)
    graphdef, params = convert(case.component, config, model, dtype)

    def ours(params: Params, *inputs: jax.Array) -> jax.Array:
        return case.ours(functional.merge(graphdef, params), *inputs)

    # Reference in float32 on the CPU: no reduced precision.
    reference = theirs(model, case.theirs, case.to_theirs(*case.inputs), "float32", device="cpu")
    wanted = case.from_theirs(as_numpy(reference()))
    run, program = compiled(ours, params, *map(jnp.asarray, case.inputs))
    eager = theirs(model, case.theirs, case.to_theirs(*case.inputs), dtype)
    programs: dict[str, Callable[[], object]] = {harness.OURS: run, "torch eager": eager}
    if torch_compile:
        faster = torch.compile(case.theirs)
        programs["torch.compile"] = theirs(model, faster, case.to_theirs(*case.inputs), dtype)
    errors = {harness.OURS: relative_error(np.asarray(run().astype(jnp.float32)), wanted)}
    if dtype != "float32":  # error of the original by the same rounding
        errors["torch eager"] = relative_error(case.from_theirs(as_numpy(eager())), wanted)
    seconds = harness.interleaved(programs, rounds, case.name)
    return harness.case(seconds, ratios=harness.ratios(seconds), errors=errors, compiled={harness.OURS: program})


def main(about: str | None, cases: Callable[[Config], list[Case]]) -> None:
    """Command line of a benchmark whose cases follow from the config."""
    arguments = harness.comparison_parser(about).parse_args()
    harness.prepare()
    config = load_config(arguments.config)
    results: harness.Json = {**harness.environment(config), "dtype": arguments.dtype}
    results["cases"] = {
        case.name: compare(case, config, arguments.rounds, arguments.dtype, arguments.torch_compile)
        for case in cases(config)
    }
    harness.publish(results, arguments.out)
