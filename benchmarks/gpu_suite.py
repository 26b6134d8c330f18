"""Every GPU benchmark in one go: each compares its outputs with float32, then times, and leaves JSON and a log.

    python benchmarks/gpu_suite.py --out benchmarks/results/gpu

A benchmark whose error against the original in float32 on the CPU is too large counts as failed, however fast it is.
Each runs in a process of its own, so that one that fails or fills the memory leaves the others alone. Exits 1 if any
failed.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import contest
import jax
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).resolve().parent
# By dtype of the computation. GPUs multiply float32 matrices in TF32, with 10 bits of mantissa; bfloat16 has 7.
TOLERANCE = {"float32": 5e-3, "bfloat16": 5e-2}
# Gradients are rounded on the way back as well: at debug width the PyTorch step in bfloat16 is 4e-2 to 5e-2 off itself.
GRADIENTS = 3.0
# Both sides' weights, optimizers and activations lie on the GPU together, so the config's own batch may not fit.
OPTIONS: dict[str, tuple[str, ...]] = {"train_step": ("--batch", "2")}
RUNS: tuple[tuple[str, str], ...] = (
    ("denoise_step", "bfloat16"),
    ("denoise_step", "float32"),
    ("vae", "bfloat16"),
    ("vae", "float32"),
    ("vocoder", "bfloat16"),
    ("vocoder", "float32"),
    ("text", "bfloat16"),
    ("text", "float32"),
    ("train_step", "bfloat16"),
)


def run(benchmark: str, dtype: str, arguments: argparse.Namespace) -> str:
    """Runs one benchmark; what is wrong with it, or ""."""
    name = f"{benchmark}_{dtype}"
    out, log = arguments.out / f"{name}.json", arguments.out / f"{name}.log"
    out.unlink(missing_ok=True)
    command = [sys.executable, str(FOLDER / f"{benchmark}.py"), "--config", arguments.config, "--dtype", dtype]
    command += ["--rounds", str(arguments.rounds), "--out", str(out), *OPTIONS.get(benchmark, ())]
    if arguments.torch_compile:
        command.append("--torch-compile")
    try:
        with log.open("w") as stream:
            code = subprocess.run(command, stdout=stream, stderr=stream, timeout=arguments.minutes * 60).returncode
    except subprocess.TimeoutExpired:
        return f"took longer than {arguments.minutes} minutes, see {log}"
    if code or not out.exists():
        return f"exit code {code}, see {log}"
    wrong = [
        f"{case}, {what}: relative L2 error {error:.1e} > {tolerance(what, dtype):.0e}"
        for case, row in json.loads(out.read_text())["cases"].items()
        for what, error in row["errors"].items()
        if what.startswith(contest.OURS) and not error <= tolerance(what, dtype)
    ]
    return "; ".join(wrong)


def tolerance(what: str, dtype: str) -> float:
    """Largest relative L2 error of what is compared."""
    return TOLERANCE[dtype] * (GRADIENTS if what.endswith("gradients") else 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON and logs")
    parser.add_argument("--config", default="published", help="config whose networks run")
    parser.add_argument("--rounds", type=int, default=10, help="counted rounds of each benchmark")
    parser.add_argument("--minutes", type=float, default=8.0, help="longest time of one benchmark")
    parser.add_argument("--torch-compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--allow-cpu", action="store_true", help="run without a GPU: a rehearsal")
    arguments = parser.parse_args()
    contest.prepare()  # this process must leave the GPU's memory to those it starts
    if jax.default_backend() != "gpu" and not arguments.allow_cpu:
        parser.error(f"JAX computes on {jax.default_backend()} here, not on a GPU: pip install 'con360av-jax[cuda]'")
    arguments.out.mkdir(parents=True, exist_ok=True)
    table, failed = Table("benchmark", "dtype", "result"), False
    for benchmark, dtype in RUNS:
        problem = run(benchmark, dtype, arguments)
        failed = failed or bool(problem)
        table.add_row(benchmark, dtype, problem or "ok")
        sys.stderr.write(f"{benchmark} {dtype}: {problem or 'ok'}\n")
    Console(width=120).print(table)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
