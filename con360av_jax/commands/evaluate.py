"""con360av evaluate: metrics of a run, a comparison of evaluations, or a study."""

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from con360av_jax.config.settings import Dtype, MeshConfig
from con360av_jax.errors import ConfigError
from con360av_jax.train.cluster import Cluster, join

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
    """Training run (its newest checkpoint), RUN/checkpoints/STEP, or a base."""
    dataset: Path | None = None
    """Dataset made with --keep-raw: its maps are inputs of the model, its views are the targets."""
    out: Path | None = None
    """Folder of the evaluation. Left out: RUN/evaluation/PROTOCOL. With --compare, the page to write (.html); left out:
    comparison.html."""
    count: int | None = None
    """Number of records, chosen by their keys and --seed. Left out: all."""
    protocol: str = "small"
    """Metrics and networks: paper, styleganv, videogpt, fadtk or small (FastGaze and YAMNet)."""
    weights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH ...")] = ()
    """Files of the protocol's networks fastgaze, yamnet, tempsal, i3d and clap, such as fastgaze=fastgaze.vxm."""
    features: tuple[Path, Path] | None = None
    """Two folders made by `python -m preprocess features`: features of generated clips and of targets. Left out:
    extracted by this command."""
    seed: int = 0
    """Seed of the choice of records, the noise and the bootstrap draws."""
    steps: int | None = None
    """Sampling steps. Left out: the config's sampler.steps."""
    text_guidance: str = ""
    """Guidance scale of the caption: NUMBER, or audio=NUMBER,video=NUMBER. Left out: the config's."""
    map_guidance: str = ""
    """Guidance scale of the maps: NUMBER, or audio=NUMBER,video=NUMBER. Left out: the config's."""
    batch_size: int | None = None
    """Clips generated at once. Left out: 4, rounded up to a multiple of the mesh's devices."""
    dtype: Dtype | None = None
    """Data type that U-Nets, connectors and VAEs compute in. Left out: float32 on CPUs, bfloat16 on GPUs and TPUs."""
    mesh: MeshConfig = MeshConfig()
    """Devices of each process to sample on. Clips are the same on any mesh, within float32 rounding."""
    raw_weights: bool = False
    """Use the trained weights instead of their moving average."""
    truth: Path | None = None
    """Folder made by `con360av synth`, if the dataset was made from it: gives the true place of every source."""
    device: str = "cpu"
    """Device of the feature extraction: cpu or cuda. JAX holds most of a GPU's memory: with cuda, extract in a second
    call after all clips are generated, or set XLA_PYTHON_CLIENT_PREALLOCATE=false."""
    allow_code: bool = False
    """Allow i3d=FILE in the weights to be TorchScript, which runs code from that file."""
    paper: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Published values to show beside the measured ones, such as s_kl=0.5."""
    draws: int = 1000
    """Bootstrap draws of each 95 % interval."""

    compare: tuple[Path, ...] = ()
    """Folders of finished evaluations to compare."""
    study: Literal["none", "viewpoints", "guidance", "ablation"] = "none"
    """viewpoints compares samples of one scene from different viewpoints; guidance evaluates every pair of text and map
    scales; ablation leaves out saliency, BASD, the caption, or all control."""
    text_scales: tuple[str, ...] = ()
    """Values of --text-guidance for a guidance study."""
    map_scales: tuple[str, ...] = ()
    """Values of --map-guidance for a guidance study."""
    cluster: tyro.conf.OmitArgPrefixes[Cluster] = Cluster()
    """Options by which the processes of one run find each other."""

    def execute(self) -> None:
        """Evaluates, compares or studies, and shows the results."""
        if self.compare:
            self._compare()
            return
        if self.run is None or self.dataset is None:
            raise ConfigError("give --run RUN --dataset DATASET, or --compare EVALUATION EVALUATION")
        if self.study != "guidance" and (self.text_scales or self.map_scales):
            raise ConfigError("--text-scales and --map-scales are for --study guidance")

        from con360av_jax.evaluate.protocols import named_protocol
        from con360av_jax.evaluate.selection import choose
        from con360av_jax.evaluate.settings import default_folder

        protocol, extraction = named_protocol(self.protocol), self._extraction()
        self._check(protocol)
        self._start()
        making = self._making(self.run, self.dataset)
        name = protocol.name if self.study == "none" else f"{protocol.name}-{self.study}"
        folder = self.out or default_folder(making.weights, self.run, name)
        if self.study != "none":
            self._study(making, folder, extraction)
            return
        entries = choose(making.dataset.samples, self.count, self.seed)
        self._evaluate(making, self._evaluation(making, folder, entries, extraction))

    def _check(self, protocol: "Protocol") -> None:
        """Raises ConfigError for options that otherwise would fail only after hours of generating."""
        from con360av_jax.evaluate.feature_metrics import check_draws
        from con360av_jax.evaluate.run import metric_names

        check_draws(self.draws)
        if unknown := self._published().keys() - (known := metric_names(protocol, self.truth is not None)):
            name = min(unknown)
            raise ConfigError(f"--paper {name}: no such metric here; give one of {', '.join(known)}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"--batch-size {self.batch_size}: give 1 or more")
        if self.truth is not None and not self.truth.is_dir():
            raise ConfigError(f"--truth {self.truth}: no such folder; give what con360av synth wrote")

    def _extraction(self) -> "Extraction":
        from con360av_jax.evaluate.extraction import Extraction, weights_by_name

        weights = weights_by_name(self.weights)
        found = Extraction(weights=weights, device=self.device, allow_code=self.allow_code, given=self.features)
        found.check()
        return found

    def _making(self, run: Path, dataset: Path) -> "Making":
        from con360av_jax.data.source import open_dataset
        from con360av_jax.evaluate.settings import Making, find_weights, require_pair, sampler_of
        from con360av_jax.model import default_dtype

        opened = open_dataset(dataset, verify="sizes")
        weights = find_weights(run, ema=not self.raw_weights)
        require_pair(weights, opened)
        sampler = sampler_of(weights.config.sampler, self.steps, self.text_guidance, self.map_guidance)
        dtype = self.dtype or default_dtype()
        return Making(weights=weights, dataset=opened, seed=self.seed, dtype=dtype, sampler=sampler)

    def _evaluation(
        self, making: "Making", folder: Path, entries: "tuple[SampleEntry, ...]", extraction: "Extraction"
    ) -> "Evaluation":
        from con360av_jax.evaluate.protocols import named_protocol
        from con360av_jax.evaluate.run import CLIPS_AT_ONCE, Evaluation

        parts = self.mesh.data * self.mesh.fsdp
        return Evaluation(
            folder=folder,
            making=making,
            entries=entries,
            protocol=named_protocol(self.protocol),
            extraction=extraction,
            batch_size=math.ceil(CLIPS_AT_ONCE / parts) * parts if self.batch_size is None else self.batch_size,
            truth=self.truth,
            paper=self._published(),
            command=self._command(),
            draws=self.draws,
        )

    def _evaluate(self, making: "Making", evaluation: "Evaluation") -> None:
        from con360av_jax.evaluate.run import generate_all, loader, measure
        from con360av_jax.evaluate.terminal import show_results

        if generate_all([evaluation], loader(making, self.mesh)):
            results, _ = measure(evaluation)
            show_results(results, evaluation.folder, evaluation.folder / "metrics.html")

    def _study(self, making: "Making", folder: Path, extraction: "Extraction") -> None:
        from con360av_jax.evaluate.run import loader
        from con360av_jax.evaluate.study import run_study, study_variants
        from con360av_jax.evaluate.terminal import show_study

        if self.study == "none" or self.features is not None:
            raise ConfigError("--features belongs to one evaluation: a study extracts those of each variant")
        variants = study_variants(self.study, making, self.count, self.text_scales, self.map_scales)
        evaluations = {
            name: self._evaluation(one, folder / name, entries, extraction) for name, (one, entries) in variants.items()
        }
        found = run_study(self.study, evaluations, folder, loader(making, self.mesh))
        if found is not None:
            show_study(self.study, *found)

    def _compare(self) -> None:
        from con360av_jax.evaluate.compare import differences, open_evaluations, write_differences
        from con360av_jax.evaluate.comparison_page import write_comparison
        from con360av_jax.evaluate.terminal import show_comparison

        out = self.out or Path("comparison.html")
        if out.suffix != ".html":
            raise ConfigError(f"--out {out}: a comparison is one page, give a name that ends in .html")
        named = open_evaluations(self.compare)
        found = differences(named, self.seed, self.draws)
        write_differences(named, found, out.with_suffix(".json"))
        folders = [path.parent if path.is_file() else path for path in self.compare]
        show_comparison(named, found, write_comparison(named, out, folders, found))

    def _start(self) -> None:
        """Joins the processes of the run, before JAX is first asked for its devices."""
        from con360av_jax.runtime.compile_cache import enable_compile_cache

        enable_compile_cache()
        join(self.cluster)

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

    def _command(self) -> str:
        """The command line, without options that have their default."""
        return shlex.join(["con360av", "evaluate", *_words(self)])


def _words(options: "Evaluate | MeshConfig | Cluster", prefix: str = "--") -> Iterator[str]:
    """The options of a dataclass that differ from their default, as a user would type them."""
    for option in fields(options):
        value, flag = getattr(options, option.name), f"{prefix}{option.name.replace('_', '-')}"
        if value == option.default:
            continue
        if isinstance(value, MeshConfig | Cluster):
            yield from _words(value, prefix if isinstance(value, Cluster) else f"{flag}.")
        else:
            yield flag
            if value is not True:
                yield from map(str, value if isinstance(value, tuple) else (value,))
