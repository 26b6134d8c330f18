"""Results of benchmarks: the conditions of a measurement, and its output as JSON and as a table."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from con360av_jax.config.files import config_hash
from con360av_jax.config.settings import Config
from con360av_jax.runtime.files import write_text
from con360av_jax.runtime.provenance import commit, package_version, processor

Json = dict[str, object]


def environment(config: Config, packages: Iterable[str]) -> Json:
    """Returns the conditions of a measurement: command, commit, config, machine, and versions of `packages`."""
    return {
        "command": shlex.join(["con360av", *sys.argv[1:]]),
        "commit": commit(),
        "config": {"name": config.name, "hash": config_hash(config)},
        "device": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in ("con360av-jax", "numpy", *packages)},
    }


def device() -> Json:
    """Returns the accelerator that JAX computes on, the processor and XLA's flags."""
    return {
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()})",
        "processor": processor(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def publish(result: Json, out: Path | None) -> None:
    """Writes the result as JSON to `out`, if given, and prints it as a table."""
    if out is not None:
        write_text(out, json.dumps(result, indent=2) + "\n")
    table = Table("what", "value", title=str(result["benchmark"]), title_justify="left")
    for name, value in result.items():
        table.add_row(name.replace("_", " "), _shown(value))
    Console().print(table)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return "unknown" if value is None else str(value)
