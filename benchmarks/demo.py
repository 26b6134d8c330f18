"""The demo: one 360° clip through the whole system at debug width, each step timed as its own process.

`make demo` calls this; every step is a command that a user could type, and is printed before it runs.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from con360av_jax.runtime.compile_flags import quick_compile_flags

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[1]
XLA_FLAGS = os.environ.get("XLA_FLAGS", quick_compile_flags(1))
# The files of protocol small, as their authors call them.
SMALL_NETWORKS = {"fastgaze": "fastgaze.vxm", "yamnet": "yamnet.tflite"}
# What earlier demos wrote, and all that a new one may remove.
PRODUCTS = ("scene", "pretrained", "dataset", "run", "timings.json", "report.html")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the demo; `arguments` follow the program's name."""

    name: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        return " ".join(self.arguments)

    def run(self) -> None:
        program, *rest = self.arguments
        executable = [sys.executable] if program == "python" else [str(BIN / program)]
        subprocess.run([*executable, *rest], check=True, cwd=ROOT, env={**os.environ, "XLA_FLAGS": XLA_FLAGS})


def demo_steps(out: Path, video: Path | None) -> tuple[Step, ...]:
    """The demo's commands, in order, up to the report."""
    videos, captions = (video, "template") if video else (out / "scene", "file")
    clip = video.stem if video else "scene_000000"
    dataset, base, run = out / "dataset", out / "pretrained", out / "run"
    scene = Step(
        name="Procedural 360° scene", arguments=("con360av", "synth", "--out", str(out / "scene"), "--seed", "7")
    )
    return (
        *(() if video else (scene,)),
        Step(name="Random weights", arguments=("con360av", "init", "--config", "debug", "--out", str(base))),
        Step(
            name="Preprocess to records",
            arguments=(
                *("python", "-m", "preprocess", "run", str(videos), "--out", str(dataset)),
                *("--base", str(base), "--captions", captions, "--viewpoints", "2", "--keep-raw", "--previews"),
                *("--workers", "0"),
            ),
        ),
        Step(
            name="Train",
            arguments=(
                *("con360av", "train", "--base", str(base), "--dataset", str(dataset)),
                *("--out", str(run)),
            ),
        ),
        Step(
            name="Sample two viewpoints",
            arguments=(
                *("con360av", "sample", "--checkpoint", str(run), "--out", str(out)),
                *("--maps", f"{dataset}#{clip}/0/0", "--maps", f"{dataset}#{clip}/0/1"),
            ),
        ),
    )


def evaluation_step(out: Path, video: Path | None, models: Path) -> Step:
    """Measures the run with the two small networks; what is where is known of the procedural scene only."""
    weights = [f"{name}={models / file}" for name, file in SMALL_NETWORKS.items()]
    return Step(
        name="Evaluate",
        arguments=(
            *("con360av", "evaluate", "--run", str(out / "run"), "--dataset", str(out / "dataset")),
            *("--count", "4", "--protocol", "small", "--weights", *weights),
            *(() if video else ("--truth", str(out / "scene"))),
        ),
    )


def report_step(out: Path) -> Step:
    """The last command: the page over all that the others made."""
    return Step(
        name="Report",
        arguments=(
            *("con360av", "report", str(out / "run"), "--dataset", str(out / "dataset")),
            *("--clip", str(out / "viewpoint_1.mp4"), "--clip", str(out / "viewpoint_2.mp4")),
            *("--timings", str(out / "timings.json"), "--out", str(out / "report.html")),
        ),
    )


def clear(out: Path) -> None:
    """Removes what an earlier demo left in `out`, and nothing else."""
    for path in (*(out / name for name in PRODUCTS), *out.glob("viewpoint_*")):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()


def run_demo(out: Path, video: Path | None, models: Path | None, console: Console) -> None:
    """Runs all steps, timed; raises CalledProcessError when one fails."""
    out.mkdir(parents=True, exist_ok=True)
    clear(out)
    timings: list[dict[str, str | float]] = []

    def timed(step: Step) -> None:
        console.print(f"\n[bold]{step.name}[/bold]\n[dim]$ {step.command}[/dim]", soft_wrap=True, highlight=False)
        start = time.perf_counter()
        step.run()
        timings.append({"name": step.name, "command": step.command, "seconds": time.perf_counter() - start})

    for step in demo_steps(out, video):
        timed(step)
    if models:
        timed(evaluation_step(out, video, models))
    (out / "timings.json").write_text(json.dumps(timings, indent=2))
    timed(report_step(out))
    (out / "timings.json").write_text(json.dumps(timings, indent=2))

    table = Table(title="Time of each step")
    table.add_column("step")
    table.add_column("seconds", justify="right")
    for row in timings:
        table.add_row(str(row["name"]), f"{row['seconds']:.1f}")
    table.add_row("[bold]all", f"[bold]{sum(float(row['seconds']) for row in timings):.1f}")
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    console.print(
        f"{os.cpu_count()} cores, largest process {peak:.1f} GiB. Open {out / 'report.html'}", highlight=False
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for everything the demo makes")
    parser.add_argument("--video", type=Path, help="a 360° video to use instead of a procedural scene")
    parser.add_argument(
        "--models", type=Path, help=f"folder with {' and '.join(SMALL_NETWORKS.values())}: evaluates the run, too"
    )
    arguments = parser.parse_args()
    console, video, models = Console(), arguments.video, arguments.models
    given = [*([video] if video else ()), *(models / name for name in SMALL_NETWORKS.values() if models)]
    missing = [str(file) for file in given if not file.is_file()]
    if missing:
        Console(stderr=True).print(f"demo: error: no such file: {', '.join(missing)}", soft_wrap=True, highlight=False)
        return 2
    try:
        run_demo(arguments.out.resolve(), video and video.resolve(), models and models.resolve(), console)
    except subprocess.CalledProcessError as failure:
        # The step has said on stderr what went wrong.
        return failure.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
