"""con360av study: the claim of the paper in miniature, from checkpoints or from nothing, as one table."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro
from rich.console import Console

from con360av_jax.commands.demo_train import SMALL_NETWORKS
from con360av_jax.commands.steps import check_files, show
from con360av_jax.commands.study_steps import (
    Work,
    evaluation_records,
    guidance_study,
    last_stage,
    pretraining,
    study,
    table,
)
from con360av_jax.config.files import load_config
from con360av_jax.config.settings import require
from con360av_jax.errors import CheckpointError

JUDGES = ("judge_video", "judge_audio")


@dataclass(frozen=True, kw_only=True)
class Study:
    """Compare a baseline with Con360-AV on held-out procedural scenes: a table, ablations and numbers of steps.

    Every step is a command that can be typed, and is shown before it runs. What is finished is kept: the same command
    goes on where it was stopped. Writes OUT/study.md and OUT/study.json.
    """

    if_interrupted: ClassVar = "the same command goes on from here"

    out: Path = Path("out/study")
    """Folder for everything that the study makes."""
    start: Literal["checkpoints", "scratch"] = "checkpoints"
    """checkpoints evaluates trained runs; scratch first pretrains all parts and trains both, in OUT/runs."""
    config: str = "small"
    """Name of a config (configs/NAME.py) or path to a .py or .json file, for what scratch trains."""
    baseline: tuple[Path, ...] = ()
    """Runs trained without maps, one for each training seed. Left out: those in OUT/runs."""
    con360av: tuple[Path, ...] = ()
    """Runs trained with maps on the same base, in the same order. Left out: those in OUT/runs."""
    weights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH ...")] = ()
    """Runs or files of judge_video and judge_audio. Left out: those in OUT/runs, or else those of the package."""
    models: Path | None = None
    """Folder with fastgaze.vxm and yamnet.tflite, for a second table by networks that know no scenes."""
    records: int = 8000
    """Number of training records that scratch makes."""
    seeds: int = 1
    """Number of training seeds of the last stage that scratch trains."""
    scenes: int = 200
    """Number of held-out scenes, each with two viewpoints, of the tables."""
    tuning_scenes: int = 40
    """Number of other scenes, of which guidance is chosen."""
    study_scenes: int = 100
    """Number of held-out scenes of the ablations and of the numbers of steps."""
    text_scales: tuple[str, ...] = ("1", "2", "4", "7.5")
    """Guidance scales of the caption to choose from."""
    map_scales: tuple[str, ...] = ("1", "2", "4")
    """Guidance scales of the maps to choose from."""
    steps: int = 50
    """Sampling steps of the tables."""
    step_counts: tuple[int, ...] = (10, 25, 50)
    """Numbers of sampling steps to compare."""
    draws: int = 1000
    """Bootstrap draws of each 95 % interval."""

    def execute(self) -> int:
        """Runs what is not finished and writes the summary; returns 0, or the exit code of the step that failed."""
        import subprocess

        for name in ("records", "seeds", "scenes", "tuning_scenes", "study_scenes", "steps"):
            require(
                getattr(self, name) > 0, f"--{name.replace('_', '-')} must be positive, but is {getattr(self, name)}"
            )
        require(
            self.study_scenes <= self.scenes, f"--study-scenes {self.study_scenes}: give at most --scenes {self.scenes}"
        )
        check_files([self.models / file for file in SMALL_NETWORKS.values()] if self.models else [])
        out, console = self.out.resolve(), Console()
        done: list[str] = []
        try:
            if self.start == "scratch":
                config = load_config(self.config)
                _run([*pretraining(out, config, self.config)], console, done)
                _run(last_stage(out, config, self.config, self.records, self.seeds), console, done)
            self._evaluate(out, console, done)
        except subprocess.CalledProcessError as failure:
            # The step has said on stderr what went wrong.
            return failure.returncode
        return 0

    def _evaluate(self, out: Path, console: Console, done: list[str]) -> None:
        from con360av_jax.evaluate.study_summary import best_map, best_text, write_summary

        pairs = self._pairs(out)
        baseline, con360av = pairs[0]
        _run(evaluation_records(out, con360av / "config.json", self.scenes, self.tuning_scenes), console, done)
        held_out, tuning = out / "datasets" / "held_out", out / "datasets" / "tuning"
        options = ("--draws", str(self.draws), "--steps", str(self.steps), *self._weights(out))
        text = ("--text-scales", *self.text_scales)
        works = [guidance_study(out, run, name, tuning, options, text) for run, name in (
            (baseline, "baseline"), (con360av, "con360av"))]  # fmt: skip
        _run(works, console, done)
        own, theirs = best_text(out / "guidance" / "con360av"), best_text(out / "guidance" / "baseline")
        scales = ("--map-scales", *self.map_scales)
        maps = guidance_study(out, con360av, "maps", tuning, (*options, "--text-guidance", own), scales)
        _run([maps], console, done)
        chosen = ("--text-guidance", own, "--map-guidance", best_map(out / "guidance" / "maps"))
        every = ("--scenes", str(self.scenes), *options, *chosen)
        tables = [table(out / f"scenes_{number}", pair, held_out, "scenes", every, theirs)
                  for number, pair in enumerate(pairs)]  # fmt: skip
        _run(tables, console, done)
        folders = {"scenes": out / "scenes_0"}
        if self.models:
            folders["small"] = self._second_opinion(out, (baseline, con360av), held_out, chosen, theirs, console, done)
        few = ("--scenes", str(self.study_scenes), "--draws", str(self.draws), *self._weights(out), *chosen)
        counts = ("--step-counts", *map(str, self.step_counts))
        _run(
            [
                study(out / "ablation", con360av, held_out, "ablation", (*few, "--steps", str(self.steps))),
                study(out / "steps", con360av, held_out, "steps", (*few, *counts)),
            ],
            console,
            done,
        )
        page = write_summary(
            out,
            folders,
            [out / f"scenes_{number}" for number in range(1, len(pairs))],
            {"Ablations": out / "ablation", "Sampling steps (DDIM)": out / "steps"},
            {"baseline": f"--text-guidance {theirs}", "Con360-AV": " ".join(chosen)},
            done,
        )
        console.print(f"Open {page}", highlight=False, soft_wrap=True)

    def _second_opinion(
        self,
        out: Path,
        runs: tuple[Path, Path],
        dataset: Path,
        chosen: tuple[str, ...],
        baseline_text: str,
        console: Console,
        done: list[str],
    ) -> Path:
        """The table of protocol small, over the clips of protocol scenes."""
        from con360av_jax.evaluate.generate import share_clips

        models = self.models or Path()
        source, folder = out / "scenes_0", out / "small"
        for place in ("baseline", "con360av", "viewpoints/viewpoint_0", "viewpoints/viewpoint_1"):
            share_clips(source / place, folder / place, "small")
        weights = ("--weights", *(f"{name}={models.resolve() / file}" for name, file in SMALL_NETWORKS.items()))
        sampling = ("--steps", str(self.steps), *chosen)
        options = ("--scenes", str(self.scenes), "--draws", str(self.draws), *weights, *sampling)
        _run([table(folder, runs, dataset, "small", options, baseline_text)], console, done)
        return folder

    def _pairs(self, out: Path) -> list[tuple[Path, Path]]:
        """The runs to compare, by training seed; raises CheckpointError if one is missing."""
        runs = out / "runs"
        baseline = [path.resolve() for path in self.baseline] or sorted(runs.glob("baseline_*"))
        con360av = [path.resolve() for path in self.con360av] or sorted(runs.glob("con360av_*"))
        if not baseline or len(baseline) != len(con360av):
            raise CheckpointError(
                f"{len(baseline)} baseline and {len(con360av)} Con360-AV runs in {runs} or given: give --baseline and "
                "--con360av one run for each seed, or --start scratch"
            )
        if missing := [str(path) for path in (*baseline, *con360av) if not (path / "config.json").is_file()]:
            raise CheckpointError(f"no run or exported model: {', '.join(missing)}")
        return list(zip(baseline, con360av, strict=True))

    def _weights(self, out: Path) -> tuple[str, ...]:
        made = tuple(f"{name}={out / 'runs' / name}" for name in JUDGES if (out / "runs" / name).is_dir())
        weights = self.weights or made
        return ("--weights", *weights) if weights else ()


def _run(works: Iterable[Work], console: Console, done: list[str]) -> None:
    """Runs what is not finished and adds every command, also of what is, to `done`; raises CalledProcessError."""
    for work in works:
        step = work.to_run()
        if step is not None:
            show(step, console)
            step.run()
        done.append(work.step.command)
