"""Commands that another command runs, each as a process of its own and shown as a user would type it."""

import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from con360av_jax.errors import ConfigError
from con360av_jax.runtime.compile_flags import quick_compile_flags, user_flags

# How the programs of the steps are started, also where they are not on the PATH.
PROGRAMS = {"con360av": ("-m", "con360av_jax.cli"), "python": ()}
TIMINGS = "timings.json"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command."""

    name: str
    """Title of the step."""
    arguments: tuple[str, ...]
    """The program and its arguments."""

    @property
    def command(self) -> str:
        """The command as a user would type it."""
        return shlex.join(self.arguments)

    def run(self, flags: str = "") -> None:
        """Runs the command with XLA_FLAGS `flags`, if any; raises CalledProcessError if it fails."""
        program, *rest = self.arguments
        environment = {**os.environ, **({"XLA_FLAGS": flags} if flags else {})}
        subprocess.run([sys.executable, *PROGRAMS[program], *rest], check=True, env=environment)


def show(step: Step, console: Console) -> None:
    """Prints the title and the command of a step."""
    console.print(f"\n[bold]{step.name}[/bold]\n[dim]$ {step.command}[/dim]", soft_wrap=True, highlight=False)


def check_files(files: Sequence[Path]) -> None:
    """Raises ConfigError that names all of `files` that do not exist."""
    if missing := [str(file) for file in files if not file.is_file()]:
        raise ConfigError(f"no such file: {', '.join(missing)}")


def clear(paths: Iterable[Path]) -> None:
    """Removes files and folders that an earlier demo made."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()


def run_demo(out: Path, steps: Sequence[Step], page: Step, console: Console) -> int:
    """Runs the steps of a demo, timed and compiled quickly, and then the step that writes its page.

    OUT/timings.json, a list of {name, command, seconds}, is there before `page` runs. Returns 0, or the exit code of
    the step that failed, which has said on standard error what went wrong.
    """
    timings: list[dict[str, str | float]] = []
    flags = user_flags() or quick_compile_flags(1)
    for step in (*steps, page):
        if step is page:
            (out / TIMINGS).write_text(json.dumps(timings, indent=2))
        show(step, console)
        start = time.perf_counter()
        try:
            step.run(flags)
        except subprocess.CalledProcessError as failure:
            return failure.returncode
        timings.append({"name": step.name, "command": step.command, "seconds": time.perf_counter() - start})
    (out / TIMINGS).write_text(json.dumps(timings, indent=2))
    _show_timings(timings, console)
    return 0


def _show_timings(timings: Sequence[dict[str, str | float]], console: Console) -> None:
    table = Table(title="Time of each step")
    table.add_column("step")
    table.add_column("seconds", justify="right")
    for row in timings:
        table.add_row(str(row["name"]), f"{row['seconds']:.1f}")
    table.add_row("[bold]all", f"[bold]{sum(float(row['seconds']) for row in timings):.1f}")
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    console.print(f"{os.cpu_count()} cores, largest process {peak:.1f} GiB.", highlight=False)
