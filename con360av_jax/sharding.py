"""The device mesh and the ordered rules that split parameters over it.

Mesh axes: `data` (copies of the model, each with a part of the batch), `fsdp` (parts of a parameter, and of the batch
as well), `tensor` (heads and channels). A rule's PartitionSpec names the *last* dimensions of a parameter, so that one
rule serves a linear kernel (in, out) and a convolution kernel (height, width, in, out); leading ones are not split.
"""

import math
import re
from typing import TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from con360av_jax.config.settings import MeshConfig
from con360av_jax.errors import ShardingError
from con360av_jax.models.functional import Params, flatten, unflatten

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
REPLICATED = P()
# A matrix into heads or a hidden layer is split over `tensor` by output, the matrix out of it by input: the activations
# between them stay local.
INTO = P("fsdp", "tensor")
OUT_OF = P("tensor", "fsdp")
INPUT_CHANNELS = P("fsdp", None)
OUTPUT_CHANNELS = P("fsdp")

Rows = TypeVar("Rows")
Rules = tuple[tuple[str, P], ...]
# First match wins; a pattern must match the whole path "a/b/c".
RULES: Rules = (
    (r".*/(bias|scale)", REPLICATED),
    # The temporal blocks' hidden layer has 8/3 of the width, which nothing divides; their position bias has few heads.
    (r"environment_encoder/video/temporal/.*/ff/proj_in/proj/kernel", INPUT_CHANNELS),
    (r"environment_encoder/video/temporal/.*/ff/proj_out/kernel", OUTPUT_CHANNELS),
    (r"environment_encoder/video/temporal/.*/bias/.*/kernel", REPLICATED),
    # The LSTM reads this small matrix at every frame. If it were split, all rows would be communicated at every frame.
    (r"map_encoder/lstm/hidden/kernel", REPLICATED),
    # Keys and values are concatenated: splitting the output would separate them.
    (r".*/to_kv/kernel", INPUT_CHANNELS),
    (r".*/to_(q|k|v)/kernel", INTO),
    (r".*/to_out/kernel", OUT_OF),
    (r".*/(sequence_)?ff/proj_in/proj/kernel", INTO),
    (r".*/(sequence_)?ff/proj_out/kernel", OUT_OF),
    # Latents have 4 or 8 channels, too few to split.
    (r"unet/(audio|video)/conv_out/kernel", REPLICATED),
    (r".*kernel", OUTPUT_CHANNELS),
)


def make_mesh(config: MeshConfig, local: bool = False) -> Mesh:
    """A mesh with axes (data, fsdp, tensor) over the first data * fsdp * tensor devices, of this process if `local`.

    Raises ShardingError if there are fewer devices, or if several processes would leave some of theirs unused.
    """
    shape = (config.data, config.fsdp, config.tensor)
    wanted, devices = math.prod(shape), jax.local_devices() if local else jax.devices()
    given = f"mesh data={config.data} fsdp={config.fsdp} tensor={config.tensor}"
    if min(shape) < 1 or wanted > len(devices):
        raise ShardingError(
            f"{given} needs {wanted} devices, {len(devices)} are here; choose axes >= 1 whose product is at most that"
        )
    if not local and jax.process_count() > 1 and wanted != len(devices):
        raise ShardingError(f"{given} uses {wanted} of the {len(devices)} devices of all processes; use every one")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:wanted])


def shardings_for(params: Params, mesh: Mesh, rules: Rules = RULES) -> Params:
    """A NamedSharding for every parameter (arrays or shapes), in the same nested dict.

    Raises ShardingError naming the first parameter that no rule matches or that does not divide over the mesh, and how
    many more there are.
    """
    shardings: dict[str, NamedSharding] = {}
    problems: list[str] = []
    for path, leaf in flatten(params).items():
        spec = _first_match(path, rules)
        found = ["no sharding rule matches; add one"] if spec is None else _misfits(spec, leaf.shape, mesh)
        problems += [f"{path.replace('/', '.')}: {problem}" for problem in found]
        if spec is not None and not found:
            shardings[path] = NamedSharding(mesh, _from_the_right(spec, leaf.ndim))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ShardingError(problems[0] + more)
    return unflatten(shardings)


def partition_spec(path: str, ndim: int, rules: Rules = RULES) -> P | None:
    """PartitionSpec of the parameter at "a/b/c" by the rules, for any mesh; None if no rule matches."""
    spec = _first_match(path, rules)
    return None if spec is None or len(spec) > ndim else _from_the_right(spec, ndim)


def _first_match(path: str, rules: Rules) -> P | None:
    return next((spec for pattern, spec in rules if re.fullmatch(pattern, path)), None)


def _from_the_right(spec: P, ndim: int) -> P:
    """`spec` for the last dimensions of an array of `ndim` dimensions; without trailing or needless Nones."""
    return P(*(None,) * (ndim - len(spec)), *spec) if any(spec) else REPLICATED


def _misfits(spec: P, shape: tuple[int, ...], mesh: Mesh) -> list[str]:
    """Reasons why `spec` cannot split an array of this shape."""
    if len(spec) > len(shape):
        return [f"has {len(shape)} dimensions, its rule {spec} names {len(spec)}; replicate it"]
    misfits = []
    for dim, axis in enumerate(spec, start=len(shape) - len(spec)):
        names = () if axis is None else (axis,) if isinstance(axis, str) else axis
        parts = math.prod(mesh.shape[name] for name in names)
        if shape[dim] % parts:
            sizes = " ".join(f"{name}={mesh.shape[name]}" for name in names)
            misfits.append(f"dim {dim} is {shape[dim]}, not divisible by {sizes}; replicate it")
    return misfits


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch: the leading axis is split over data and fsdp."""
    return NamedSharding(mesh, P(BATCH_AXES))


def from_local_rows(rows: Rows, mesh: Mesh) -> Rows:
    """The global arrays of all processes' rows (NumPy), split over the mesh as a batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), rows)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises ShardingError unless each of `accumulate` parts divides over the devices that split the batch."""
    parts = math.prod(mesh.shape[name] for name in BATCH_AXES) * accumulate
    if batch_size % parts:
        by = f"data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']}"
        by += f" x accumulate={accumulate}" if accumulate > 1 else ""
        raise ShardingError(f"a batch of {batch_size} does not divide over {by}; use a multiple of {parts}")


def replicate(mesh: Mesh) -> NamedSharding:
    """Sharding that keeps the whole array on every device."""
    return NamedSharding(mesh, REPLICATED)
