"""Commands of the study of the small model, in the published order, each finished one left out when they run again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from con360av_jax.commands.steps import Step
from con360av_jax.config.settings import Config

CHECKPOINTS = "checkpoints"
TRAINING_SEED, JUDGE_SEED, HELD_OUT_SEED, TUNING_SEED = 1, 1007, 5, 6
"""Seeds of scenes. Those of the validation split are no training scenes whatever the seed."""
BEFORE_MOTION = ("vae_video", "vae_audio", "vocoder", "unet_video", "unet_audio")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A step that leaves something behind, by which it is known to be finished."""

    step: Step
    """The command that makes it."""
    made: Path
    """File or folder that is there once the step is finished."""
    resumed: Path | None = None
    """Folder whose checkpoints a stopped training goes on from with --resume; None for commands that simply go on."""

    def to_run(self) -> Step | None:
        """The step as it is to be run now; None if it is finished."""
        if self.made.exists():
            return None
        if self.resumed is not None and any((self.resumed / CHECKPOINTS).glob("[0-9]*")):
            return replace(self.step, arguments=(*self.step.arguments, "--resume"))
        return self.step


def pretraining(out: Path, config: Config, given: str) -> list[Work]:
    """Judges and base: random weights, autoencoders and vocoder, stills, audio, motion modules.

    Args:
        out: folder of the study.
        config: config that `given` names.
        given: name or path of the config.
    """
    runs = out / "runs"

    def init(name: str, parts: Sequence[str]) -> Work:
        words = [word for part in parts for word in ("--part", f"{part}={runs / part}")]
        folder = out / name
        step = _con360av("Base", "init", "--config", given, "--out", str(folder), *words)
        return Work(step=step, made=folder / "report.json")

    def pretrain(part: str, base: str, seed: int = TRAINING_SEED) -> Work:
        run, recipe = runs / part, getattr(config.pretrain, part).recipe
        options = ("--config", given, "--base", str(out / base), "--scenes", str(seed), "--out", str(run))
        step = _con360av(f"Pretrain {part}", "pretrain", part, *options)
        return Work(step=step, made=run / CHECKPOINTS / str(recipe.steps), resumed=run)

    return [
        init("base_random", ()),
        pretrain("judge_video", "base_random", JUDGE_SEED),
        pretrain("judge_audio", "base_random", JUDGE_SEED),
        pretrain("vae_video", "base_random"),
        pretrain("vae_audio", "base_random"),
        init("base_vae", BEFORE_MOTION[:2]),
        pretrain("vocoder", "base_vae"),
        pretrain("unet_video", "base_vae"),
        pretrain("unet_audio", "base_vae"),
        init("base_stills", BEFORE_MOTION),
        pretrain("motion", "base_stills"),
        init("base", (*BEFORE_MOTION, "motion")),
    ]


def last_stage(out: Path, config: Config, given: str, records: int, seeds: int) -> list[Work]:
    """Dataset, and from the same base with the same steps a baseline without maps and Con360-AV, once for each seed.

    Dropping the maps of every sample makes the baseline; both train the same parameters.
    """
    base, dataset = out / "base", out / "datasets" / "train"
    make = ("--out", str(dataset), "--base", str(base), "--seed", str(TRAINING_SEED), "--records", str(records))
    work = [Work(step=_con360av("Training records", "synth-dataset", *make), made=dataset / "manifest.json")]
    for seed in range(seeds):
        for name, options in (("baseline", ("--config.train.map-dropout", "1")), ("con360av", ())):
            run = out / "runs" / f"{name}_{seed}"
            words = ("--config", given, "--base", str(base), "--dataset", str(dataset), "--out", str(run))
            step = _con360av(f"Train {run.name}", "train", *words, "--config.train.seed", str(seed), *options)
            work.append(Work(step=step, made=run / CHECKPOINTS / str(config.train.steps), resumed=run))
    return work


def evaluation_records(out: Path, config: Path, scenes: int, tuning_scenes: int) -> list[Work]:
    """Held-out records to evaluate on, and others of which guidance is chosen."""
    work = []
    for name, seed, count in (("held_out", HELD_OUT_SEED, scenes), ("tuning", TUNING_SEED, tuning_scenes)):
        folder = out / "datasets" / name
        words = ("--out", str(folder), "--config", str(config), "--split", "validation", "--seed", str(seed))
        step = _con360av(f"Records: {name}", "synth-dataset", *words, "--records", str(2 * count))
        work.append(Work(step=step, made=folder / "manifest.json"))
    return work


def guidance_study(
    out: Path, run: Path, name: str, tuning: Path, options: Sequence[str], scales: Sequence[str]
) -> Work:
    """Evaluations of a run on tuning scenes with several guidance scales.

    Args:
        out: folder of the study.
        run: the run.
        name: name of this study.
        tuning: dataset of the tuning scenes.
        options: options of every evaluation.
        scales: options of the study, such as --text-scales 1 2.
    """
    folder = out / "guidance" / name
    words = ("--run", str(run), "--dataset", str(tuning), "--out", str(folder), "--protocol", "scenes")
    step = _con360av(f"Guidance: {name}", "evaluate", *words, "--study", "guidance", *scales, *options)
    return Work(step=step, made=folder / "study.json")


def table(
    out: Path, runs: tuple[Path, Path], dataset: Path, protocol: str, options: Sequence[str], baseline_text: str
) -> Work:
    """Both runs over the same records and noise, and Con360-AV's viewpoints against each other."""
    words = ("--baseline", str(runs[0]), "--con360av", str(runs[1]), "--dataset", str(dataset), "--out", str(out))
    text = ("--baseline-text-guidance", baseline_text) if baseline_text else ()
    step = _con360av(f"Table, protocol {protocol}", "table1", *words, "--protocol", protocol, *text, *options)
    return Work(step=step, made=out / "table1.json")


def study(out: Path, run: Path, dataset: Path, name: str, options: Sequence[str]) -> Work:
    """Evaluations of Con360-AV without parts of its input, or with several numbers of steps."""
    words = ("--run", str(run), "--dataset", str(dataset), "--out", str(out), "--protocol", "scenes")
    step = _con360av(f"Study: {name}", "evaluate", *words, "--study", name, *options)
    return Work(step=step, made=out / "study.json")


def _con360av(name: str, *arguments: str) -> Step:
    return Step(name=name, arguments=("con360av", *arguments))
