"""Timing in turns: every contestant once per round, so that a machine that slows down slows all of them alike.

ratio    seconds of the original / seconds of ours, of one round; the median is reported, above 1 ours is faster (1)
"""

import argparse
import fcntl
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import track
from rich.table import Table

from con360av_jax.config.files import config_hash, load_config
from con360av_jax.config.settings import Config
from con360av_jax.runtime.compile_flags import choose_fast_run
from con360av_jax.runtime.provenance import commit, processor

Contestants = Mapping[str, Callable[[], object]]
Json = dict[str, object]
PACKAGES = ("jax", "jaxlib", "flax", "torch", "diffusers", "transformers")
# What the names of our programs begin with.
OURS = "jax"
# Names a file that benchmarks running beside each other share, so that no two of them are timed at once.
TIMING_LOCK = "CON360AV_TIMING_LOCK"


def options(about: str | None) -> argparse.ArgumentParser:
    """What every benchmark can be asked."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="published", help="config whose networks run")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds after one that is not")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and computation"
    )
    parser.add_argument("--torch-compile", action="store_true", help="also run the original under torch.compile")
    parser.add_argument("--out", type=Path, help="JSON file with the results")
    return parser


def prepare() -> None:
    """Sets what has to be set before JAX starts its backend; what the user has set stays."""
    choose_fast_run()
    # PyTorch needs room on the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@contextmanager
def alone() -> Iterator[None]:
    """Time in which no benchmark that shares the lock's file is timed; others may compile on the host meanwhile."""
    path = os.environ.get(TIMING_LOCK)
    if path is None:
        yield
        return
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def interleaved(contestants: Contestants, rounds: int, about: str) -> dict[str, list[float]]:
    """Seconds of every counted round; each function returns only when its result is there."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():  # the round that is not counted: what compiles late does so here
        run()
    with alone():
        for _ in track(range(rounds), description=about, console=Console(stderr=True)):
            for name, run in contestants.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def standings(seconds: Mapping[str, list[float]]) -> Json:
    """Medians, all rounds, and equation (1) of every original against every program of ours."""
    ratios = {}
    for ours in (name for name in seconds if name.startswith(OURS)):
        for theirs in (name for name in seconds if not name.startswith(OURS)):
            pairs = [one / other for one, other in zip(seconds[theirs], seconds[ours], strict=True)]
            ratios[f"{theirs} / {ours}"] = {
                "median": statistics.median(pairs),
                "lowest": min(pairs),
                "highest": max(pairs),
            }
    return {
        "seconds": {name: {"median": statistics.median(row), "rounds": row} for name, row in seconds.items()},
        "ratios": ratios,
    }


def environment(config: Config) -> Json:
    """Command, commit, device and config of a run: what a number has to be quoted with."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "config": {"name": config.name, "hash": config_hash(config)},
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()})",
        "cores": os.cpu_count(),
        "processor": processor(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := installed(name))},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def installed(package: str) -> str:
    """Its version, or "" if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def publish(results: Json, out: Path | None) -> None:
    """Writes the JSON, if asked for, and a table to the terminal."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2) + "\n")
    table = Table("case", "what", "median", "lowest", "highest", "unit")
    cases = results["cases"]
    for name, case in cases.items() if isinstance(cases, dict) else ():
        for contestant, row in case["seconds"].items():
            table.add_row(
                name, contestant, f"{row['median']:.3f}", f"{min(row['rounds']):.3f}", f"{max(row['rounds']):.3f}", "s"
            )
        for pair, row in case["ratios"].items():
            table.add_row(name, pair, *(f"{row[key]:.2f}" for key in ("median", "lowest", "highest")), "")
        for contestant, error in case["errors"].items():
            table.add_row(name, f"{contestant}, relative L2 error", f"{error:.1e}")
        for program, row in case["compiled"].items():
            for key, unit in (("compile_seconds", "s"), ("parameters_gib", "GiB"), ("temporaries_gib", "GiB")):
                if key in row:
                    table.add_row(name, f"{program}, {key.rpartition('_')[0]}", f"{row[key]:.2f}", "", "", unit)
    Console(width=120).print(table)


def configured(arguments: argparse.Namespace) -> Config:
    """The config that was asked for."""
    return load_config(arguments.config)
