"""con360av table1: Table 1 of the Con360-AV paper for two runs of one's own."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from con360av_jax.commands.evaluation_options import EvaluationOptions, option_words


@dataclass(frozen=True, kw_only=True)
class Table1:
    """Repeat Table 1 of the paper: evaluate a baseline, Con360-AV, and its viewpoints against each other.

    Writes table1.html and table1.json, ours beside the paper's numbers. The same command goes on where it was stopped;
    finished parts are not repeated.
    """

    if_interrupted: ClassVar = "the same command goes on from here"

    baseline: Path
    """Run trained without maps (config baseline), RUN/checkpoints/STEP, its export, or a base with trained
    connectors."""
    con360av: Path
    """Run trained with maps on the same base, RUN/checkpoints/STEP, or an exported model."""
    dataset: Path
    """Dataset made with --keep-raw and two viewpoints or more, of recordings that neither run was trained on."""
    out: Path
    """Folder of the table, of both evaluations and of the viewpoint comparison."""
    protocol: Literal["paper", "small", "scenes"] = "paper"
    """paper: the paper's networks (TempSAL, LAION-CLAP, I3D). small: FastGaze and YAMNet, whose numbers are not
    comparable with the paper's, without FVD. scenes: judges of procedural scenes, with the scenes' truth."""
    truth: Path | None = None
    """Folder made by `con360av synth` that the dataset was made from, for protocol scenes. A dataset of `con360av
    synth-dataset` needs none."""
    baseline_text_guidance: str = ""
    """Guidance scale of the caption for the baseline: NUMBER, or audio=NUMBER,video=NUMBER. Left out: as
    --text-guidance."""
    options: Annotated[EvaluationOptions, tyro.conf.arg(name="")] = EvaluationOptions()
    """Options of every evaluation. With --count, the viewpoint comparison has about as many clips."""

    def execute(self) -> None:
        """Evaluates what is not yet evaluated, and shows the table."""
        from con360av_jax.evaluate.protocols import named_protocol
        from con360av_jax.evaluate.run import Evaluation, loader
        from con360av_jax.evaluate.selection import choose_records, complete_scenes
        from con360av_jax.evaluate.study import study_variants
        from con360av_jax.evaluate.table1 import (
            BASELINE,
            CON360AV,
            VIEWPOINTS,
            check_runs,
            doubts,
            make_table,
            published,
            scene_count,
            without_maps,
        )
        from con360av_jax.evaluate.table1_page import write_table
        from con360av_jax.evaluate.terminal import show_table1, warn_of

        options, protocol = self.options, named_protocol(self.protocol)
        options.check()
        extraction = options.extraction()
        options.start()
        text = self.baseline_text_guidance or options.text_guidance
        makings = [
            replace(options, text_guidance=text).making(self.baseline, self.dataset, protocol),
            options.making(self.con360av, self.dataset, protocol),
        ]
        check_runs(makings[0].weights, makings[1].weights)
        warn_of(doubts(*makings))
        samples = makings[1].dataset.samples
        entries = choose_records(samples, options.count, options.scenes, options.seed)
        views = complete_scenes(samples)
        scenes = options.scenes or scene_count(options.count, len(views), len(next(iter(views.values()))))
        command = shlex.join(["con360av", "table1", *option_words(self)])
        first = Evaluation(
            folder=self.out / BASELINE,
            making=without_maps(makings[0]),
            entries=entries,
            protocol=protocol,
            extraction=extraction,
            batch_size=options.clips_at_once(),
            truth=self.truth,
            paper=published(BASELINE, protocol),
            command=command,
            draws=options.draws,
        )
        second = replace(first, folder=self.out / CON360AV, making=makings[1], paper=published(CON360AV, protocol))
        variants = study_variants(VIEWPOINTS, makings[1], scenes)
        studied = {
            name: replace(second, folder=self.out / VIEWPOINTS / name, making=making, entries=chosen, paper={})
            for name, (making, chosen) in variants.items()
        }
        table = make_table({BASELINE: first, CON360AV: second}, studied, self.out, loader(options.mesh), command)
        if table is not None:
            show_table1(table, write_table(table, self.out))
