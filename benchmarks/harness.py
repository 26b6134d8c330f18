"""Shared by all benchmarks: options, interleaved timing, memory, run environment, JSON and the table.

Programs are timed in rounds, each once per round, so that a machine that slows down slows all of them alike.

ratio    seconds of the original / seconds of ours, of one round; the median is reported, above 1 ours is faster (1)
"""

import argparse
import fcntl
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from rich.console import Console
from rich.progress import track
from rich.table import Table

from con360av_jax.bench import results as bench
from con360av_jax.config.settings import Config
from con360av_jax.runtime.compile_flags import choose_fast_run
from con360av_jax.runtime.files import write_text

Programs = Mapping[str, Callable[[], object]]
Json = bench.Json
PACKAGES = ("jax", "jaxlib", "flax", "torch", "diffusers", "transformers")
# Prefix of the names of our programs.
OURS = "jax"
# Environment variable: path of a lock file; of the benchmarks that share it, no two are timed at once.
TIMING_LOCK = "CON360AV_TIMING_LOCK"


def parser(about: str | None, config: str = "published", rounds: int = 5) -> argparse.ArgumentParser:
    """Parser with the options of all benchmarks: --config, --rounds and --out; the arguments are the defaults."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=config, help="name or path of the config")
    parser.add_argument("--rounds", type=int, default=rounds, help="counted rounds, after one that is not counted")
    parser.add_argument("--out", type=Path, help="JSON file with the results")
    return parser


def comparison_parser(about: str | None, config: str = "published") -> argparse.ArgumentParser:
    """Parser for benchmarks that compare networks with PyTorch's: also --dtype and --torch-compile."""
    found = parser(about, config)
    found.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="dtype of weights and computation"
    )
    found.add_argument("--torch-compile", action="store_true", help="also run the original under torch.compile")
    return found


def torch_options(parser: argparse.ArgumentParser) -> None:
    """Adds --device and --threads of benchmarks that run PyTorch networks only."""
    import torch

    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of PyTorch")
    parser.add_argument(
        "--threads",
        type=int,
        default=torch.get_num_threads(),
        help="threads of PyTorch; 1 on a machine with other work, where threads wait for each other",
    )


def prepare() -> None:
    """Sets JAX's flags before its backend starts; values set by the user stay."""
    choose_fast_run()
    # PyTorch needs memory on the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def one_core() -> int:
    """Pins this process with all its threads to one core and returns its number; -1 where unsupported."""
    cv2.setNumThreads(0)
    threads = Path("/proc/self/task")
    if not threads.is_dir():
        return -1
    core = min(os.sched_getaffinity(0))
    # Libraries have already started threads; decoders start theirs later, as many as there are cores.
    for thread in threads.iterdir():
        os.sched_setaffinity(int(thread.name), {core})
    return core


@contextmanager
def alone() -> Iterator[None]:
    """Holds the lock of TIMING_LOCK, if set: no other benchmark is timed meanwhile, though it may compile."""
    path = os.environ.get(TIMING_LOCK)
    if path is None:
        yield
        return
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def interleaved(programs: Programs, rounds: int, about: str) -> dict[str, list[float]]:
    """Seconds of every counted round by program; each program must return only when its result is computed."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for run in programs.values():  # the round that is not counted, for what compiles late
        run()
    with alone():
        for _ in track(range(rounds), description=about, console=Console(stderr=True)):
            for name, run in programs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def with_processor_time(programs: Programs, spent: dict[str, list[float]]) -> dict[str, Callable[[], object]]:
    """The same programs; each call appends its processor seconds to `spent`, the uncounted round first.

    Unlike seconds on the clock, these exclude the time in which other programs had the processor.
    """

    def run(name: str) -> None:
        start = time.process_time()
        programs[name]()
        spent.setdefault(name, []).append(time.process_time() - start)

    return {name: partial(run, name) for name in programs}


def rounds_row(values: Sequence[float]) -> Json:
    """Median and all values."""
    return {"median": statistics.median(values), "rounds": list(values)}


def ratio_row(values: Sequence[float], others: Sequence[float]) -> Json:
    """Median, lowest and highest ratio of two programs, round by round."""
    ratios = [one / other for one, other in zip(values, others, strict=True)]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def case(seconds: Mapping[str, list[float]], **more: Any) -> Json:
    """One case of the results; ratios (1), errors and compiled programs are empty unless given."""
    rows = {name: rounds_row(row) for name, row in seconds.items()}
    return {"seconds": rows, "ratios": {}, "errors": {}, "compiled": {}, **more}


def ratios(seconds: Mapping[str, list[float]]) -> Json:
    """Equation (1) of every original against every program of ours."""
    return {
        f"{theirs} / {ours}": ratio_row(seconds[theirs], seconds[ours])
        for ours in (name for name in seconds if name.startswith(OURS))
        for theirs in (name for name in seconds if not name.startswith(OURS))
    }


def compiled_row(program: Any, seconds: float) -> Json:
    """Compile time of a compiled JAX program and the memory that it needs."""
    memory = program.memory_analysis()
    sizes = {} if memory is None else {
        "parameters_gib": memory.argument_size_in_bytes / 2**30,
        "temporaries_gib": memory.temp_size_in_bytes / 2**30,
    }  # fmt: skip
    return {"compile_seconds": seconds, **sizes}


# Linux counts the memory of the process that starts a command as the command's own peak: a small one starts it.
_MEASURE = """
import json, os, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(child.pid, 0)
os.sync()
print(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - start, usage.ru_maxrss]))
"""


def measured_command(command: Sequence[str]) -> tuple[float, float]:
    """Runs a command; returns its seconds until all is on disk, and its largest resident memory in MiB (Linux).

    Raises RuntimeError if the command fails.
    """
    launcher = [sys.executable, "-c", _MEASURE, *command]
    ran = subprocess.run(launcher, stdout=subprocess.PIPE, text=True, check=True)
    code, seconds, kibibytes = json.loads(ran.stdout)
    if code:
        raise RuntimeError(f"{shlex.join(command)} failed with exit code {code}")
    return seconds, kibibytes / 1024


def link_copies(clip: Path, count: int, folder: Path) -> Path:
    """Makes `folder` with `count` hard links to a clip, "clip00000.mp4" and so on, and returns it."""
    folder.mkdir()
    for number in range(count):
        os.link(clip, folder / f"clip{number:05d}.mp4")
    return folder


def environment(config: Config, packages: Iterable[str] = ()) -> Json:
    """Command, commit, device, config and versions, to be quoted with every number; `packages` adds to PACKAGES."""
    command = ["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
    return bench.environment(config, (*PACKAGES, *packages)) | bench.device() | {"command": shlex.join(command)}


def publish(results: Json, out: Path | None) -> None:
    """Writes the results as JSON if `out` is given, and prints their cases as a table, or all where there are none."""
    if out is not None:
        write_text(out, json.dumps(results, indent=2) + "\n")
    cases = results.get("cases")
    if not isinstance(cases, dict):
        Console().print_json(data=results)
        return
    table = Table("case", "what", "median", "lowest", "highest", "unit")
    for name, case in cases.items():
        for program, row in case["seconds"].items():
            numbers = (row["median"], min(row["rounds"]), max(row["rounds"]))
            table.add_row(name, program, *(f"{number:.3f}" for number in numbers), "s")
        for pair, row in case["ratios"].items():
            table.add_row(name, pair, *(f"{row[key]:.2f}" for key in ("median", "lowest", "highest")), "")
        for program, error in case["errors"].items():
            table.add_row(name, f"{program}, relative L2 error", f"{error:.1e}")
        for program, row in case["compiled"].items():
            for key, unit in (("compile_seconds", "s"), ("parameters_gib", "GiB"), ("temporaries_gib", "GiB")):
                if key in row:
                    table.add_row(name, f"{program}, {key.rpartition('_')[0]}", f"{row[key]:.2f}", "", "", unit)
    Console(width=120).print(table)
