"""Runs all GPU benchmarks: each compares its outputs with float32, then times, and writes JSON and a log.

    python -m benchmarks.gpu_suite --out benchmarks/results/gpu

A benchmark fails if its error relative to the original in float32 on the CPU is too large, however fast it is. Each
runs in its own process, so that a failure or a full memory does not affect the others. With `--jobs 3` three prepare at
a time (weights, references, compiling), but no two are timed at once. Exits 1 if any failed.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import harness

# Largest relative error by compute dtype. GPUs multiply float32 in TF32 with 10 bits of mantissa; bfloat16 has 7.
TOLERANCE = {"float32": 5e-3, "bfloat16": 5e-2}
# Factor for gradients, which are rounded once more: PyTorch's own bfloat16 step is 4e-2 to 5e-2 off at debug width.
GRADIENTS = 3.0
# Both sides' weights, optimizers and activations are on the GPU together: the config's own batch may not fit.
OPTIONS: dict[str, tuple[str, ...]] = {"train_step": ("--batch", "1"), "denoise_step": ("--frames", "32")}
# The longest first, so that parallel jobs end together.
RUNS: tuple[tuple[str, str], ...] = (
    ("train_step", "bfloat16"),
    ("denoise_step", "bfloat16"),
    ("denoise_step", "float32"),
    ("vae", "bfloat16"),
    ("vae", "float32"),
    ("text", "bfloat16"),
    ("text", "float32"),
    ("vocoder", "bfloat16"),
    ("vocoder", "float32"),
)


def run(benchmark: str, dtype: str, arguments: argparse.Namespace) -> str:
    """Runs one benchmark; returns its problem, or ""."""
    name = f"{benchmark}_{dtype}"
    out, log = arguments.out / f"{name}.json", arguments.out / f"{name}.log"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--config", arguments.config, "--dtype", dtype]
    command += ["--rounds", str(arguments.rounds), "--out", str(out), *OPTIONS.get(benchmark, ())]
    if arguments.torch_compile:
        command.append("--torch-compile")
    try:
        with log.open("w") as stream:
            # All benchmarks of one call share the lock.
            env = {**os.environ, harness.TIMING_LOCK: str(arguments.out / "timing.lock")}
            limit = arguments.minutes * 60
            code = subprocess.run(command, stdout=stream, stderr=stream, timeout=limit, env=env).returncode
    except subprocess.TimeoutExpired:
        return f"took longer than {arguments.minutes} minutes, see {log}"
    if code or not out.exists():
        return f"exit code {code}, see {log}"
    wrong = [
        f"{case}, {what}: relative L2 error {error:.1e} > {tolerance(what, dtype):.0e}"
        for case, row in json.loads(out.read_text())["cases"].items()
        for what, error in row["errors"].items()
        if what.startswith(harness.OURS) and not error <= tolerance(what, dtype)
    ]
    return "; ".join(wrong)


def tolerance(what: str, dtype: str) -> float:
    """Largest allowed relative L2 error of a compared quantity."""
    return TOLERANCE[dtype] * (GRADIENTS if what.endswith("gradients") else 1.0)


def chosen(only: Sequence[str]) -> list[tuple[str, str]]:
    """The runs named NAME or NAME_DTYPE in `only`; all if it is empty."""
    return [(name, dtype) for name, dtype in RUNS if not only or {name, f"{name}_{dtype}"} & set(only)]


def main() -> None:
    """Runs the chosen benchmarks and prints their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON and logs")
    parser.add_argument("--config", default="published", help="name or path of the config")
    parser.add_argument("--rounds", type=int, default=10, help="counted rounds of each benchmark")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of one benchmark")
    parser.add_argument("--torch-compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--jobs", type=int, default=1, help="number of benchmarks that prepare at a time")
    parser.add_argument("--only", nargs="+", default=[], help="run only these: vae, vae_float32, ...")
    parser.add_argument("--allow-cpu", action="store_true", help="run without a GPU, as a rehearsal")
    arguments = parser.parse_args()
    harness.prepare()  # leaves the GPU's memory to the started processes
    if jax.default_backend() != "gpu" and not arguments.allow_cpu:
        parser.error(f"JAX computes on {jax.default_backend()} here, not on a GPU: pip install 'con360av-jax[cuda]'")
    runs = chosen(arguments.only)
    if not runs:
        parser.error(f"--only {' '.join(arguments.only)}: no benchmark has this name")
    arguments.out.mkdir(parents=True, exist_ok=True)

    def one(benchmark: str, dtype: str) -> str:
        problem = run(benchmark, dtype, arguments)
        sys.stderr.write(f"{benchmark} {dtype}: {problem or 'ok'}\n")
        return problem

    with ThreadPoolExecutor(arguments.jobs) as jobs:
        problems = list(jobs.map(one, *zip(*runs, strict=True)))
    table = Table("benchmark", "dtype", "result")
    for (benchmark, dtype), problem in zip(runs, problems, strict=True):
        table.add_row(benchmark, dtype, problem or "ok")
    Console(width=120).print(table)
    raise SystemExit(1 if any(problems) else 0)


if __name__ == "__main__":
    main()
