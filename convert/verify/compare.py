"""Comparison of every network that a public library can run: original and converted, on the same inputs.

    error    ||converted - original||_2 / ||original||_2                                                           (1)

of the whole network, each running on its own from the same random inputs; and of every layer, where each of our layers
gets the outputs of the original's earlier layers, so that errors do not accumulate.
"""

import gc
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from con360av_jax.base.pretrained import Pretrained, open_pretrained
from con360av_jax.errors import CheckpointError, ConfigError
from con360av_jax.models import functional
from convert.base_config import make_config
from convert.torch_files.folders import Sources
from convert.verify import torch_networks
from convert.verify.jax_networks import NETWORKS, Network
from convert.verify.layers import Comparison, compare, layer_names, run_both_ways

# Tolerances in float32, and for weights rounded to half precision.
LAYER_TOLERANCE, NETWORK_TOLERANCE, ROUNDED_TOLERANCE = 1e-5, 1e-4, 2e-2
NO_LIBRARY = "no library runs these connectors: compared with stored reference tensors in the tests, not here"


@dataclass(frozen=True, kw_only=True)
class PartResult:
    """All measurements of one component."""

    part: str
    original: str
    """Class of the original, or the reason why there is none."""
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[Comparison, ...]
    layers: tuple[Comparison, ...]
    """Layers in the order in which they finish."""
    tolerance: float
    layer_tolerance: float
    original_seconds: float
    """Seconds of the original's run, its layers recorded."""
    converted_seconds: float
    """Seconds of the run of our compiled program that compares the layers."""
    notes: tuple[str, ...] = ()

    @property
    def error(self) -> float | None:
        """Largest error of the outputs; None if nothing ran."""
        return _largest(self.outputs)

    @property
    def layer_error(self) -> float | None:
        """Largest error of the layers; None if none was compared."""
        return _largest(self.layers)

    @property
    def diverging(self) -> str | None:
        """Name of the first layer above its tolerance; None if there is none."""
        return next((row.name for row in self.layers if _above(row.error, self.layer_tolerance)), None)

    @property
    def passed(self) -> bool | None:
        """Whether all errors are within their tolerances; None if nothing ran."""
        if not self.outputs:
            return None
        complete = all(row.error is not None for row in self.outputs)
        return complete and self.diverging is None and not _above(self.error, self.tolerance)


def verify(
    sources: Sources,
    base: Path,
    seed: int = 0,
    parts: tuple[str, ...] | None = None,
    tolerance: float | None = None,
) -> list[PartResult]:
    """Compares a pretrained folder with what it was converted from, one network in memory at a time.

    Args:
        sources: published weights of the originals.
        base: the pretrained folder.
        seed: seed of the random inputs.
        parts: components to compare (keys of jax_networks.NETWORKS); None compares all.
        tolerance: largest error of a network; 1e-4 if left out, 2e-2 where the folder's weights were rounded.

    Raises:
        ConfigError: an unknown part.
        CheckpointError: the folder or a source is corrupt, they hold different networks, or PyTorch is missing.
    """
    for name in parts or ():
        if name not in NETWORKS:
            raise ConfigError(f"part {name!r} given, but there are {', '.join(NETWORKS)}: choose among these")
    pretrained = open_pretrained(base)
    config = pretrained.config
    wanted = make_config(sources, config.name, config).model
    if differing := [name for name in vars(wanted) if getattr(wanted, name) != getattr(config.model, name)]:
        raise CheckpointError(
            f"{base} was not made from these sources, its networks differ ({', '.join(differing)}): give the others"
        )
    # A GPU would otherwise multiply in fewer bits than float32 has.
    with jax.default_matmul_precision("highest"):
        results = [
            _verify_part(name, sources, pretrained, seed, tolerance)
            for name in track(tuple(NETWORKS) if parts is None else parts, description="verify")
        ]
    if parts is None and "unet_svg" in sources.components:
        results.append(_not_run("unet_svg", NO_LIBRARY))
    return results


def passed(results: Iterable[PartResult]) -> bool:
    """Whether something was compared and all of it is within its tolerances."""
    ran = [result.passed for result in results if result.passed is not None]
    return bool(ran) and all(ran)


def _verify_part(
    component: str, sources: Sources, pretrained: Pretrained, seed: int, tolerance: float | None
) -> PartResult:
    network, model = NETWORKS[component], pretrained.config.model
    inputs = network.inputs(model, np.random.default_rng((seed, list(NETWORKS).index(component))))
    original = torch_networks.build(component, network.part, sources)
    start = time.perf_counter()
    with torch_networks.recording(original) as layers:
        wanted = torch_networks.run(component, original, inputs)
    original_seconds = time.perf_counter() - start
    names = layer_names(torch_networks.names_in_library(original, component, network.part, sources), network.below)
    # The two networks, 5 GB each at full size, must not be in memory together.
    del original
    gc.collect()
    given = {name: jnp.asarray(array) for name, array in inputs.items()}
    graphdef, _ = functional.abstract(partial(network.make, pretrained.config))
    params = network.params(pretrained)
    found, rows, converted_seconds = run_both_ways(network, graphdef, params, given, layers, names)
    rounded = _rounded(component, network, sources, pretrained)
    library, kind = torch_networks.CLASSES[component]
    return PartResult(
        part=component,
        original=f"{library} {kind}",
        inputs={name: array.shape for name, array in inputs.items()},
        outputs=tuple(compare(name, found[name], wanted[name]) for name in wanted),
        layers=tuple(rows),
        tolerance=tolerance if tolerance is not None else ROUNDED_TOLERANCE if rounded else NETWORK_TOLERANCE,
        layer_tolerance=ROUNDED_TOLERANCE if rounded else LAYER_TOLERANCE,
        original_seconds=original_seconds,
        converted_seconds=converted_seconds,
        notes=(f"weights were rounded to {rounded}, compared in float32",) if rounded else (),
    )


def _not_run(part: str, why: str) -> PartResult:
    return PartResult(
        part=part, original=why, inputs={}, outputs=(), layers=(), tolerance=NETWORK_TOLERANCE,
        layer_tolerance=LAYER_TOLERANCE, original_seconds=0.0, converted_seconds=0.0,
    )  # fmt: skip


def _rounded(component: str, network: Network, sources: Sources, pretrained: Pretrained) -> str:
    """Half-precision dtypes of the tensors that the source holds in another dtype; "" if there are none."""
    stored = torch_networks.stored_types(component, network.part, sources)
    tensors: Any = pretrained.report["tensors"]
    held = {row["path"]: row["dtype"] for row in tensors if row["part"] == network.part and row["path"] in stored}
    return ", ".join(sorted({kind for path, kind in held.items() if kind.endswith("float16") and kind != stored[path]}))


def _above(error: float | None, tolerance: float) -> bool:
    # NaN is above every tolerance.
    return error is not None and not error <= tolerance


def _largest(rows: Sequence[Comparison]) -> float | None:
    errors = [row.error for row in rows if row.error is not None]
    return max(errors, key=lambda error: (math.isnan(error), error), default=None)
