"""The plan of a run: requirements of its step, whether they fit, and which batch and remat policy would fit.

    memory(rows) = base + rows * per_row            a line through two compiled steps                              (1)
    compute      = clips * FLOPs / (peak * MFU)     per device                                                     (2)
    wire         = bytes sent / bandwidth           per device, collectives as rings                               (3)

A step takes between max(compute, wire), if communication overlaps with arithmetic, and their sum, if it does not.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import jax

from con360av_jax.config.files import config_hash
from con360av_jax.config.settings import Config, MeshConfig, Remat, require
from con360av_jax.errors import ConfigError
from con360av_jax.plan.requirements import Requirements, measure, on_devices, rows_of, with_rows

# Usable share of a GPU's memory; CUDA, NCCL and fragmentation take the rest (configs/cluster sets
# XLA_CLIENT_MEM_FRACTION to it).
USABLE_SHARE = 0.92
UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "GB": 10**9, "MB": 10**6}

NOTES = (
    "Temporaries are those of XLA's CPU compiler, an approximation of a GPU's: it may keep bfloat16 as float32, and "
    "stores attention scores that fused attention on GPUs does not. Measure before relying on the last few GiB.",
    "FLOPs are those of matrix products and convolutions, two per multiply-add, recomputation by remat included.",
    "Largest batches come from a line through two compiled batch sizes: an estimate.",
    "Times are FLOPs and bytes divided by the given speeds, not measured. Bytes sent assume rings, and that no data "
    "type changes on the way; a GPU may send a gradient in bfloat16 where this program sends float32.",
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Devices that a plan is made for; speeds are per device."""

    devices: int
    """Number of devices."""
    memory: int
    """Memory per device (bytes)."""
    peak_tflops: float
    """Peak rate of dense matrix products in the compute dtype (1e12 FLOP/s)."""
    mfu: float
    """Share of the peak rate that training reaches (0 to 1)."""
    bandwidth: float
    """Rate at which a device can send (1e9 bytes/s)."""

    def __post_init__(self):
        for name in ("memory", "peak_tflops", "mfu", "bandwidth"):
            require(getattr(self, name) > 0, f"{name}={getattr(self, name)} must be positive")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Memory of one remat policy by equation (1)."""

    remat: Remat
    """Name of the policy."""
    base: float
    """Memory per device that does not grow with the batch (bytes)."""
    per_row: float
    """Memory per sample that a device computes at once (bytes)."""
    largest_rows: int
    """Largest number of samples at once that fit on a device."""
    flops_per_clip: float
    """FLOPs per sample, recomputation included."""
    compile_seconds: float
    """Time for compiling both steps (s)."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Time of a step by equations (2) and (3) (s)."""

    compute: float
    """Time of arithmetic."""
    wire: float
    """Time of communication."""

    @property
    def range(self) -> tuple[float, float]:
        """Shortest and longest time of a step."""
        return max(self.compute, self.wire), self.compute + self.wire


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Result of `con360av plan`."""

    config: str
    config_hash: str
    jax_version: str
    mesh: MeshConfig
    batch_size: int
    accumulate: int
    changes: list[str]
    """Changes of the config that the number of devices required."""
    machine: Machine
    needs: Requirements
    """Requirements of the config's own step."""
    fits: bool
    """Whether the step fits into the memory of a device."""
    time: StepTime
    """Estimated time of a step."""
    policies: list[Policy]
    """One entry per remat policy; empty if no suggestion was asked for."""
    suggestion: str
    """Remat policy and batch to set; empty if no suggestion was asked for."""
    notes: list[str]
    """Limits of the estimates."""


def plan(config: Config, machine: Machine, *, suggest: bool, say: Callable[[str], None]) -> Plan:
    """Compiles the config's own step and, to `suggest`, two batch sizes of every remat policy; `say` gets progress.

    Raises:
        ConfigError: a number is out of range or the trainable set is empty.
        ShardingError: the mesh does not fit the devices that are here, the batch or a parameter.
    """
    config, changes = on_devices(config, machine.devices)
    done: dict[tuple[int, Remat], Requirements] = {}

    def needs_of(rows: int, remat: Remat) -> Requirements:
        if (rows, remat) not in done:
            say(f"compiling for {machine.devices} devices, {rows} samples each, remat {remat}")
            done[rows, remat] = measure(with_rows(config, rows, remat))
        return done[rows, remat]

    needs = needs_of(rows_of(config), config.train.remat)
    policies = []
    for remat in get_args(Remat) if suggest else ():
        other = max(1, needs.rows // 2) if needs.rows > 1 else 2
        policies.append(policy(needs_of(needs.rows, remat), needs_of(other, remat), machine.memory))
    clips = config.train.batch_size / machine.devices
    return Plan(
        config=config.name,
        config_hash=config_hash(config),
        jax_version=jax.__version__,
        mesh=config.mesh,
        batch_size=config.train.batch_size,
        accumulate=config.train.accumulate,
        changes=changes,
        machine=machine,
        needs=needs,
        fits=needs.memory.total <= USABLE_SHARE * machine.memory,
        time=StepTime(
            compute=clips * needs.flops_per_clip / (machine.peak_tflops * 1e12 * machine.mfu),
            wire=sum(one.sent for one in needs.collectives) / (machine.bandwidth * 1e9),
        ),
        policies=policies,
        suggestion=suggestion(policies, needs.rows),
        notes=list(NOTES),
    )


def policy(one: Requirements, other: Requirements, memory: int) -> Policy:
    """Fits equation (1) to two steps of one remat policy, for devices with `memory` bytes."""
    per_row = (one.memory.total - other.memory.total) / (one.rows - other.rows)
    base = one.memory.total - one.rows * per_row
    room = USABLE_SHARE * memory - base
    # A program whose memory does not grow with its batch is too small for an estimate.
    largest = math.floor(room / per_row) if per_row > 0 else 0
    return Policy(
        remat=one.remat,
        base=base,
        per_row=per_row,
        largest_rows=max(largest, 0),
        flops_per_clip=one.flops_per_clip,
        compile_seconds=one.compile_seconds + other.compile_seconds,
    )


def suggestion(policies: list[Policy], rows: int) -> str:
    """Returns the policy with the fewest FLOPs that fits `rows` samples per device, or else the one that fits most."""
    if not policies:
        return ""
    enough = [one for one in policies if one.largest_rows >= rows]
    if enough:
        best = min(enough, key=lambda one: one.flops_per_clip)
    else:
        best = max(policies, key=lambda one: one.largest_rows)
    if best.largest_rows == 0:
        return "not one sample fits with any remat policy: use more mesh.fsdp or mesh.tensor, or larger devices"
    return f"train.remat={best.remat}, up to {best.largest_rows} samples at once on each device"


def parse_memory(text: str) -> int:
    """Parses a size such as "80GiB", "40 GB" or "512MiB" to bytes; raises ConfigError for anything else."""
    found = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*({'|'.join(UNITS)})\s*", text)
    if found is None:
        raise ConfigError(f"--device-memory {text}: give a number with a unit ({', '.join(UNITS)}), such as 80GiB")
    return round(float(found.group(1)) * UNITS[found.group(2)])
