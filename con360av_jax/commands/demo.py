"""con360av demo: what a trained model makes of one scene, beside what it should have made, on one page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from con360av_jax.commands.demo_train import DemoTrain
from con360av_jax.commands.steps import TIMINGS, Step, check_files, clear, run_demo
from con360av_jax.config.files import config_of
from con360av_jax.errors import ConfigError
from con360av_jax.runtime.packaged import find_model, packaged_models

SMALL = "small"
"""Name of the packaged model."""
# Files and folders that a demo writes, and that the next one removes.
PRODUCTS = ("scene", "dataset", "evaluation", TIMINGS, "report.html")
SCENES_ONLY = (
    "This model has only learnt procedural scenes. It has never seen a real recording, so what it makes of this one "
    "says nothing about the method. The page shows what the model is given"
)


def demo_steps(
    out: Path, checkpoint: str, config: Path, seconds: float, seed: int, weights: tuple[str, ...] = ()
) -> tuple[Step, ...]:
    """Steps for a held-out scene, up to the evaluation of two viewpoints of it; `weights` are those of the judges."""
    scene, judges = out / "scene", ("--weights", *weights) if weights else ()
    return (
        Step(
            name="Held-out 360° scene",
            arguments=(
                *("con360av", "synth", "--out", str(scene), "--version", "2", "--split", "validation"),
                *("--seed", str(seed), "--seconds", f"{seconds:g}"),
            ),
        ),
        _preprocess(scene, out, config, ("--captions", "file", "--trajectories", str(scene / "viewpoints.csv"))),
        _evaluate(out, checkpoint, ("--protocol", "scenes", "--truth", str(scene), *judges)),
    )


def recording_steps(out: Path, checkpoint: str, config: Path, video: Path) -> tuple[Step, ...]:
    """Steps for a recording, whose truth is not known."""
    return (
        _preprocess(video, out, config, ("--captions", "template", "--viewpoints", "2")),
        _evaluate(out, checkpoint, ("--protocol", "plain")),
    )


def _preprocess(videos: Path, out: Path, config: Path, options: tuple[str, ...]) -> Step:
    """Preprocessing without encoders: sampling needs maps and captions, the evaluation the views and the audio."""
    return Step(
        name="Preprocess to records",
        arguments=(
            *("python", "-m", "preprocess", "run", str(videos), "--out", str(out / "dataset")),
            *("--config", str(config), *options, "--previews", "--workers", "0"),
        ),
    )


def _evaluate(out: Path, checkpoint: str, options: tuple[str, ...]) -> Step:
    """One batch of two clips, which are generated and measured in the same process."""
    return Step(
        name="Sample two viewpoints and measure them",
        arguments=(
            *("con360av", "evaluate", "--run", checkpoint, "--dataset", str(out / "dataset"), "--scenes", "1"),
            *("--out", str(out / "evaluation"), "--batch-size", "2", *options),
        ),
    )


def page_step(out: Path, note: str) -> Step:
    """Page about everything that the other steps made."""
    return Step(
        name="Page",
        arguments=(
            *("con360av", "gallery", str(out / "evaluation"), "--timings", str(out / TIMINGS)),
            *(("--note", note) if note else ()),
            *("--out", str(out / "report.html")),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Show what a trained model makes of one scene: two viewpoints beside their targets, with audio and numbers.

    Renders a procedural scene that the model was not trained on, preprocesses it, generates two viewpoints, measures
    them and writes OUT/report.html. Every step is a command that can be typed, and is shown before it runs.
    """

    out: Path = Path("out/demo")
    """Folder for everything that the demo makes. What an earlier one left there is removed."""
    video: Path | None = None
    """360° video to use instead of a procedural scene; the packaged model has only learnt procedural scenes."""
    checkpoint: str = SMALL
    """Exported model, base, training run or name of a packaged model."""
    weights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH ...")] = ()
    """Runs or files of judge_video and judge_audio. Left out: those of the package."""
    seed: int = 7
    """Seed of the procedural scene."""

    def execute(self) -> int:
        """Runs all steps; returns 0, or the exit code of the step that failed."""
        out, video, console = self.out.resolve(), self.video and self.video.resolve(), Console()
        check_files([video] if video else [])
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: give 0 or more")
        if self.checkpoint == SMALL and SMALL not in packaged_models():
            console.print("No trained model is packaged yet: running con360av demo-train, which trains one briefly.")
            return DemoTrain(out=self.out, video=self.video).execute()
        seconds, config = config_of(self.checkpoint).clip.seconds, find_model(self.checkpoint) / "config.json"
        out.mkdir(parents=True, exist_ok=True)
        clear(out / name for name in PRODUCTS)
        if video:
            steps = recording_steps(out, self.checkpoint, config, video)
        else:
            steps = demo_steps(out, self.checkpoint, config, seconds, self.seed, self.weights)
        code = run_demo(out, steps, page_step(out, SCENES_ONLY if video else ""), console)
        if code == 0:
            console.print(f"Open {out / 'report.html'}", highlight=False, soft_wrap=True)
        return code
