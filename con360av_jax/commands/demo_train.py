"""con360av demo-train: the whole system at debug width on one 360° video, from random weights through training."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from con360av_jax.commands.steps import TIMINGS, Step, check_files, clear, run_demo

# Files of the networks of protocol small, as published.
SMALL_NETWORKS = {"fastgaze": "fastgaze.vxm", "yamnet": "yamnet.tflite"}
# Files and folders that a demo writes, and that the next one removes.
PRODUCTS = ("scene", "pretrained", "dataset", "run", TIMINGS, "report.html")


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
            *("--timings", str(out / TIMINGS), "--out", str(out / "report.html")),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class DemoTrain:
    """Run the whole system at debug width on one 360° video, from random weights through training to a page.

    Every step is a command that can be typed, and is shown before it runs. The last one writes OUT/report.html. It
    shows that the whole path works; `con360av demo` shows what a trained model makes.
    """

    out: Path = Path("out/demo-train")
    """Folder for everything that the demo makes. What an earlier one left there is removed."""
    video: Path | None = None
    """360° video to use. Left out: a procedural one."""
    models: Path | None = None
    """Folder with fastgaze.vxm and yamnet.tflite, to evaluate the run, too."""

    def execute(self) -> int:
        """Runs all steps; returns 0, or the exit code of the step that failed."""
        video, models = self.video and self.video.resolve(), self.models and self.models.resolve()
        check_files([*([video] if video else ()), *(models / name for name in SMALL_NETWORKS.values() if models)])
        out, console = self.out.resolve(), Console()
        out.mkdir(parents=True, exist_ok=True)
        clear((*(out / name for name in PRODUCTS), *out.glob("viewpoint_*")))
        steps = (*demo_steps(out, video), *([evaluation_step(out, video, models)] if models else ()))
        code = run_demo(out, steps, report_step(out), console)
        if code == 0:
            console.print(f"Open {out / 'report.html'}", highlight=False, soft_wrap=True)
        return code
