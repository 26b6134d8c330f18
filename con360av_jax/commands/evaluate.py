"""con360av evaluate: metrics of a run, a comparison of evaluations, or a study."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from con360av_jax.commands.evaluation_options import EvaluationOptions, option_words
from con360av_jax.errors import ConfigError

if TYPE_CHECKING:
    from con360av_jax.data.schema import SampleEntry
    from con360av_jax.evaluate.extraction import Extraction
    from con360av_jax.evaluate.protocols import Protocol
    from con360av_jax.evaluate.run import Evaluation
    from con360av_jax.evaluate.settings import Making


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a run: generate clips of a dataset's records, extract features, compute metrics, write a page.

    The same command goes on where it was stopped. With --compare it compares finished evaluations; with --study it
    evaluates the run several times, each time with other inputs.
    """

    if_interrupted: ClassVar = "the same command goes on from here"

    run: Path | None = None
    """Training run (its newest checkpoint), RUN/checkpoints/STEP or RUN/checkpoints/best, a base, an exported model, or
    the name of a packaged model."""
    dataset: Path | None = None
    """Dataset made with --keep-raw: its maps are inputs of the model, its views are the targets."""
    out: Path | None = None
    """Folder of the evaluation. Left out: RUN/evaluation/PROTOCOL. With --compare, the page to write (.html); left out:
    comparison.html."""
    protocol: str = "small"
    """Metrics and networks: paper, styleganv, videogpt, fadtk, small (FastGaze and YAMNet), scenes (judges of
    procedural scenes; the dataset is one of con360av synth-dataset, or --truth is given), or plain (no network)."""
    options: Annotated[EvaluationOptions, tyro.conf.arg(name="")] = EvaluationOptions()
    """Options of every evaluation."""
    features: tuple[Path, Path] | None = None
    """Two folders made by `python -m preprocess features`: features of generated clips and of targets. Left out:
    extracted by this command."""
    truth: Path | None = None
    """Folder made by `con360av synth`, if the dataset was made from it: gives the true place of every source."""
    paper: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Published values to show beside the measured ones, such as s_kl=0.5."""

    compare: tuple[Path, ...] = ()
    """Folders of finished evaluations to compare."""
    study: Literal["none", "viewpoints", "guidance", "ablation", "steps"] = "none"
    """viewpoints compares samples of one scene from different viewpoints; guidance evaluates every pair of text and map
    scales; ablation leaves out saliency, BASD, the caption, or all control; steps evaluates each of --step-counts."""
    text_scales: tuple[str, ...] = ()
    """Values of --text-guidance for a guidance study."""
    map_scales: tuple[str, ...] = ()
    """Values of --map-guidance for a guidance study."""
    step_counts: tuple[int, ...] = ()
    """Values of --steps for a study of steps."""

    def execute(self) -> None:
        """Evaluates, compares or studies, and shows the results."""
        if self.compare:
            self._compare()
            return
        if self.run is None or self.dataset is None:
            raise ConfigError("give --run RUN --dataset DATASET, or --compare EVALUATION EVALUATION")
        if self.study != "guidance" and (self.text_scales or self.map_scales):
            raise ConfigError("--text-scales and --map-scales are for --study guidance")
        if self.study != "steps" and self.step_counts:
            raise ConfigError("--step-counts are for --study steps")

        from con360av_jax.evaluate.protocols import named_protocol
        from con360av_jax.evaluate.selection import choose_records
        from con360av_jax.evaluate.settings import default_folder

        protocol, extraction = named_protocol(self.protocol), self.options.extraction(self.features)
        self._check(protocol)
        self.options.start()
        making = self.options.making(self.run, self.dataset, protocol)
        name = protocol.name if self.study == "none" else f"{protocol.name}-{self.study}"
        folder = self.out or default_folder(making.weights, self.run, name)
        if self.study != "none":
            self._study(making, folder, extraction)
            return
        chosen = self.options.count, self.options.scenes, self.options.seed
        entries = choose_records(making.dataset.samples, *chosen)
        self._evaluate(making, self._evaluation(making, folder, entries, extraction))

    def _check(self, protocol: "Protocol") -> None:
        """Raises ConfigError for options that otherwise would fail only after hours of generating."""
        from con360av_jax.evaluate.run import metric_names

        self.options.check()
        if unknown := self._published().keys() - (known := metric_names(protocol, self.truth is not None)):
            name = min(unknown)
            raise ConfigError(f"--paper {name}: no such metric here; give one of {', '.join(known)}")
        if self.truth is not None and not self.truth.is_dir():
            raise ConfigError(f"--truth {self.truth}: no such folder; give what con360av synth wrote")

    def _evaluation(
        self, making: "Making", folder: Path, entries: "tuple[SampleEntry, ...]", extraction: "Extraction"
    ) -> "Evaluation":
        from con360av_jax.evaluate.protocols import named_protocol
        from con360av_jax.evaluate.run import Evaluation

        return Evaluation(
            folder=folder,
            making=making,
            entries=entries,
            protocol=named_protocol(self.protocol),
            extraction=extraction,
            batch_size=self.options.clips_at_once(),
            truth=self.truth,
            paper=self._published(),
            command=shlex.join(["con360av", "evaluate", *option_words(self)]),
            draws=self.options.draws,
        )

    def _evaluate(self, making: "Making", evaluation: "Evaluation") -> None:
        from con360av_jax.evaluate.run import generate_all, loader, measure
        from con360av_jax.evaluate.terminal import show_results

        if generate_all([evaluation], loader(self.options.mesh)):
            results, _ = measure(evaluation)
            show_results(results, evaluation.folder, evaluation.folder / "metrics.html")

    def _study(self, making: "Making", folder: Path, extraction: "Extraction") -> None:
        from con360av_jax.evaluate.run import loader
        from con360av_jax.evaluate.study import run_study, study_variants
        from con360av_jax.evaluate.terminal import show_study

        if self.study == "none" or self.features is not None:
            raise ConfigError("--features belongs to one evaluation: a study extracts those of each variant")
        chosen, scales = self.options, (self.text_scales, self.map_scales)
        variants = study_variants(self.study, making, chosen.count, *scales, chosen.scenes, self.step_counts)
        evaluations = {
            name: self._evaluation(one, folder / name, entries, extraction) for name, (one, entries) in variants.items()
        }
        found = run_study(self.study, evaluations, folder, loader(self.options.mesh))
        if found is not None:
            show_study(self.study, found)

    def _compare(self) -> None:
        from con360av_jax.evaluate.compare import differences, open_evaluations, write_differences
        from con360av_jax.evaluate.comparison_page import write_comparison
        from con360av_jax.evaluate.terminal import show_comparison

        out = self.out or Path("comparison.html")
        if out.suffix != ".html":
            raise ConfigError(f"--out {out}: a comparison is one page, give a name that ends in .html")
        named = open_evaluations(self.compare)
        found = differences(named, self.options.seed, self.options.draws)
        write_differences(named, found, out.with_suffix(".json"))
        folders = [path.parent if path.is_file() else path for path in self.compare]
        show_comparison(named, found, write_comparison(named, out, folders, found))

    def _published(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for text in self.paper:
            name, _, value = text.partition("=")
            if name in found:
                raise ConfigError(f"--paper {name} is given twice: {found[name]:g} and {value}")
            try:
                found[name] = float(value)
            except ValueError as error:
                raise ConfigError(f"--paper {text}: give NAME=VALUE, such as s_kl=0.5") from error
            if not math.isfinite(found[name]):
                raise ConfigError(f"--paper {text}: give a finite value, such as s_kl=0.5")
        return found
