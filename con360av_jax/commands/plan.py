"""con360av plan: what a training step needs on N devices, before anyone pays for them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from con360av_jax.config.files import config_of, load_config, unstructure
from con360av_jax.config.settings import Config
from con360av_jax.runtime.compile_flags import quick_compile_flags, user_flags


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Compile a training step for simulated devices and show its memory, arithmetic and communication.

    Nothing is allocated, so a laptop can plan for a cluster. Every setting of the config is an option, such as
    --config.mesh.fsdp 8. Defaults below are those of CONFIG.
    """

    config: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
    """Name of a config (configs/NAME.py) or path to a .py or .json file."""
    base: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Base to plan for: model, mel, noise schedules and clip are its own. Left out: those of CONFIG."""
    devices: int
    """Number of devices of the run. If the config's mesh has another number of devices, every device holds one copy of
    the model."""
    device_memory: str = "80GiB"
    """Memory of one device, with its unit (GiB, MiB, GB or MB)."""
    quick: bool = False
    """Compile only the step of this config, and suggest no other settings."""
    peak_tflops: float = 312.0
    """Peak arithmetic rate of one device, 1e12 FLOP/s; an A100 has 312 in bfloat16."""
    mfu: float = 0.4
    """Share of the peak arithmetic rate that training reaches (model FLOPs utilisation)."""
    bandwidth: float = 25.0
    """Rate at which one device can send, GB/s. 25 is one link of 200 Gbit/s per GPU between machines; NVLink is ten
    times faster."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file to write the plan to."""

    def starting_config(self) -> Config:
        """The config whose settings are options; raises CheckpointError if the base has none."""
        given = load_config(self.config)
        if self.base is None:
            return given
        base = config_of(self.base)
        return given.on_base(base, base.clip)

    def execute(self, config: Config) -> None:
        """Compiles the step and shows the plan."""
        simulate(self.devices)

        import json

        from rich.console import Console

        from con360av_jax.plan.display import show
        from con360av_jax.plan.planner import Machine, parse_memory, plan
        from con360av_jax.runtime.files import write_text

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
    # The program is never run: flags that make it faster only make compiling slower.
    flags = (
        f"{user_flags()} --xla_force_host_platform_device_count={max(devices, 1)} {quick_compile_flags(0)} "
        "--xla_llvm_disable_expensive_passes=true"
    )
    os.environ["XLA_FLAGS"] = flags.strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
