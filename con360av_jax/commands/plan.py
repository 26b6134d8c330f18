"""con360av plan: what a training step needs on N devices, before anyone pays for them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from con360av_jax.commands.options import override
from con360av_jax.runtime.compile_flags import fast_run_flags, quick_compile_flags


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Compile a training step for simulated devices and show its memory, arithmetic and communication.

    Nothing is allocated, so a laptop can plan for a cluster. Any setting of the config can be changed by its path, for
    example --config.mesh.fsdp 8.
    """

    config: tyro.conf.Positional[str]
    """Name of a config (configs/NAME.py), or path to a .py or .json file."""
    devices: int
    """Devices of the run. A config whose mesh has another number is planned with one copy of the model on each."""
    device_memory: str = "80GiB"
    """Memory of one device, with its unit."""
    quick: bool = False
    """Compile the config's own step only; suggest nothing."""
    peak_tflops: float = 312.0
    """Peak of one device, 1e12 FLOP/s; an A100 has 312 in bfloat16."""
    mfu: float = 0.4
    """Share of the peak that training reaches."""
    bandwidth: float = 25.0
    """What one device can send, GB/s: 25 is one 200 Gbit/s link per GPU between machines; NVLink has ten times that."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file for the plan."""

    def execute(self, settings: list[str]) -> None:
        """Plans; `settings` are the options that change the config."""
        from con360av_jax.config.files import load_config
        from con360av_jax.runtime.files import write_text

        config = override(load_config(self.config), settings)
        simulate(self.devices)

        import json

        from rich.console import Console

        from con360av_jax.config.files import unstructure
        from con360av_jax.plan.display import show
        from con360av_jax.plan.planner import Machine, parse_memory, plan

        machine = Machine(
            devices=self.devices,
            memory=parse_memory(self.device_memory),
            peak_tflops=self.peak_tflops,
            mfu=self.mfu,
            bandwidth=self.bandwidth,
        )
        with Console(stderr=True).status("planning") as status:
            found = plan(config, machine, suggest=not self.quick, say=status.update)
        if self.out is not None:
            write_text(self.out, json.dumps(unstructure(found), indent=2) + "\n")
        show(found, Console())


def simulate(devices: int) -> None:
    """Makes JAX simulate so many CPU devices; has to come before its first computation."""
    given = os.environ.get("XLA_FLAGS", "")
    # The program is never run: whatever makes it faster only makes compiling slower.
    given = "" if given == fast_run_flags() else given
    flags = (
        f"{given} --xla_force_host_platform_device_count={max(devices, 1)} {quick_compile_flags(0)} "
        "--xla_llvm_disable_expensive_passes=true"
    )
    os.environ["XLA_FLAGS"] = flags.strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
