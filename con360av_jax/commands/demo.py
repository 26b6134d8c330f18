"""con360av demo: the whole system at debug width on one 360° video, each step timed as a process of its own."""

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

from con360av_jax.errors import ConfigError
from con360av_jax.runtime.compile_flags import quick_compile_flags, user_flags

# How the programs of the steps are started, also where they are not on the PATH.
PROGRAMS = {"con360av": ("-m", "con360av_jax.cli"), "python": ()}
# Files of the networks of protocol small, as published.
SMALL_NETWORKS = {"fastgaze": "fastgaze.vxm", "yamnet": "yamnet.tflite"}
# Files and folders that a demo writes, and that the next one removes.
PRODUCTS = ("scene", "pretrained", "dataset", "run", "timings.json", "report.html")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the demo."""

    name: str
    """Title of the step."""
    arguments: tuple[str, ...]
    """The program and its arguments."""

    @property
    def command(self) -> str:
        """The command as a user would type it."""
        return " ".join(self.arguments)

    def run(self) -> None:
        """Runs the command in a process of its own; raises CalledProcessError if it fails."""
        program, *rest = self.arguments
        flags = user_flags() or quick_compile_flags(1)
        subprocess.run([sys.executable, *PROGRAMS[program], *rest], check=True, env={**os.environ, "XLA_FLAGS": flags})


def demo_steps(out: Path, video: Path | None) -> tuple[Step, ...]:
    """Steps up to the sampling of clips, in order."""
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
    """Evaluation of the run with two small networks; only the procedural video has a ground truth."""
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
    """Page about everything that the other steps made."""
    return Step(
        name="Report",
        arguments=(
            *("con360av", "report", str(out / "run"), "--dataset", str(out / "dataset")),
            *("--clip", str(out / "viewpoint_1.mp4"), "--clip", str(out / "viewpoint_2.mp4")),
            *("--timings", str(out / "timings.json"), "--out", str(out / "report.html")),
        ),
    )


def clear(out: Path) -> None:
    """Removes the products of an earlier demo from `out`, and nothing else."""
    for path in (*(out / name for name in PRODUCTS), *out.glob("viewpoint_*")):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Run the whole system at debug width on one 360° video, each step as a process of its own.

    Every step is a command that can be typed, and is shown before it runs. The last one writes OUT/report.html.
    """

    out: Path = Path("out/demo")
    """Folder for everything that the demo makes. What an earlier demo left there is removed."""
    video: Path | None = None
    """360° video to use. Left out: a procedural one."""
    models: Path | None = None
    """Folder with fastgaze.vxm and yamnet.tflite, to evaluate the run, too."""

    def execute(self) -> int:
        """Runs all steps; returns 0, or the exit code of the step that failed."""
        video, models = self.video and self.video.resolve(), self.models and self.models.resolve()
        given = [*([video] if video else ()), *(models / name for name in SMALL_NETWORKS.values() if models)]
        missing = [str(file) for file in given if not file.is_file()]
        if missing:
            raise ConfigError(f"no such file: {', '.join(missing)}")
        try:
            run_demo(self.out.resolve(), video, models, Console())
        except subprocess.CalledProcessError as failure:
            # The step has said on stderr what went wrong.
            return failure.returncode
        return 0


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
