"""con360av evaluate: the published evaluation of a run in one command, evaluations side by side, and studies."""

import math
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from con360av_jax.config.settings import MeshConfig
from con360av_jax.errors import ConfigError

if TYPE_CHECKING:
    from con360av_jax.data.schema import SampleEntry
    from con360av_jax.evaluate.extraction import Extraction
    from con360av_jax.evaluate.run import Evaluation
    from con360av_jax.evaluate.settings import Making


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a run: generate clips for records of a dataset, extract features, compute distances, write a page.

    The same command goes on where it was stopped; what is there is not made again. Or set evaluations side by side with
    --compare, or vary what clips are generated from with --study.
    """

    run: Path | None = None
    """Training run (its newest checkpoint), RUN/checkpoints/STEP, or a pretrained folder."""
    dataset: Path | None = None
    """Dataset folder, preprocessed with --keep-raw: its maps are shown to the model, its views are the targets."""
    out: Path | None = None
    """Folder of the evaluation. Left out: RUN/evaluation/PROTOCOL. With --compare: the page (.html) to write; left out:
    comparison.html."""
    count: int | None = None
    """How many records; which is decided by their keys and --seed. Left out: all."""
    protocol: str = "small"
    """paper, styleganv, videogpt, fadtk or small (FastGaze and YAMNet)."""
    weights: tuple[str, ...] = ()
    """Files of the protocol's networks: fastgaze=PATH yamnet=PATH, or tempsal, i3d, clap."""
    features: tuple[Path, Path] | None = None
    """Features extracted elsewhere by python -m preprocess features: folders of generated clips and of targets."""
    seed: int = 0
    """Chooses records, noise and the draws of intervals."""
    steps: int | None = None
    """Sampling steps. Left out: those of the config."""
    text_guidance: str = ""
    """Scale of the text's guidance: NUMBER, or audio=NUMBER,video=NUMBER. Left out: that of the config."""
    map_guidance: str = ""
    """Scale of the maps' guidance, likewise."""
    batch_size: int | None = None
    """Clips generated at once. Left out: 4, or the next multiple of the devices."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Devices to sample on, of each process. Clips are the same on any mesh, within float32 rounding."""
    raw_weights: bool = False
    """Use the trained weights themselves instead of their moving average."""
    truth: Path | None = None
    """Folder of con360av synth, where the dataset was made from it: what is where is known there."""
    device: str = "cpu"
    """Where features are extracted: cpu, or cuda (JAX holds most of a GPU's memory: extract in a second call, when all
    clips are there, or set XLA_PYTHON_CLIENT_PREALLOCATE=false)."""
    allow_code: bool = False
    """Let --weights i3d=FILE be TorchScript, which runs code from that file."""
    paper: tuple[str, ...] = ()
    """Published values to stand beside ours: NAME=VALUE, such as s_kl=0.5."""
    draws: int = 1000
    """Draws of each 95 % interval."""

    compare: tuple[Path, ...] = ()
    """Evaluation folders to set side by side."""
    study: Literal["none", "viewpoints", "guidance", "ablation"] = "none"
    """viewpoints: samples of one scene from different viewpoints against each other. guidance: every pair of
    --text-scales and --map-scales. ablation: without saliency, BASD, caption, or any control."""
    text_scales: tuple[str, ...] = ()
    """Of --study guidance, each as --text-guidance takes it."""
    map_scales: tuple[str, ...] = ()
    """Of --study guidance, each as --map-guidance takes it."""

    distributed: bool = False
    """One of several processes that generate; the others are found through SLURM, Open MPI or Kubernetes."""
    coordinator: str = ""
    """One of several processes without such a scheduler: HOST:PORT on which process 0 listens."""
    processes: int = 0
    """How many processes take part, with --coordinator."""
    process_id: int = -1
    """Which of them this is, from 0, with --coordinator."""

    def execute(self) -> None:
        """Evaluates, compares or studies, and shows what was found."""
        if self.compare:
            self._compare()
            return
        if self.run is None or self.dataset is None:
            raise ConfigError("give --run RUN --dataset DATASET, or --compare EVALUATION EVALUATION")
        if self.study != "guidance" and (self.text_scales or self.map_scales):
            raise ConfigError("--text-scales and --map-scales are for --study guidance")

        from con360av_jax.evaluate.choose import choose
        from con360av_jax.evaluate.protocols import named_protocol
        from con360av_jax.evaluate.settings import default_folder

        protocol, extraction = named_protocol(self.protocol), self._extraction()
        self._check()
        making = self._making(self.run, self.dataset)
        name = protocol.name if self.study == "none" else f"{protocol.name}-{self.study}"
        folder = self.out or default_folder(making.weights, self.run, name)
        if self.study != "none":
            self._study(making, folder, extraction)
            return
        entries = choose(making.dataset.samples, self.count, self.seed)
        self._evaluate(making, self._evaluation(making, folder, entries, extraction))

    def _check(self) -> None:
        """Raises ConfigError for what else would show only after hours of generating."""
        from con360av_jax.evaluate.compute import check_draws

        check_draws(self.draws)
        self._published()
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

        opened = open_dataset(dataset, verify="sizes")
        weights = find_weights(run, ema=not self.raw_weights)
        require_pair(weights, opened)
        sampler = sampler_of(weights.config.sampler, self.steps, self.text_guidance, self.map_guidance)
        return Making(weights=weights, dataset=opened, seed=self.seed, sampler=sampler)

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
        from con360av_jax.evaluate.run import Loader, generate_all, measure
        from con360av_jax.evaluate.show import show_results

        self._start()
        if generate_all([evaluation], Loader(making, self.mesh)):
            results, _ = measure(evaluation)
            show_results(results, evaluation.folder, evaluation.folder / "metrics.html")

    def _study(self, making: "Making", folder: Path, extraction: "Extraction") -> None:
        from con360av_jax.evaluate.run import Loader
        from con360av_jax.evaluate.show import show_study
        from con360av_jax.evaluate.study import arms_of, run_study

        if self.study == "none" or self.features is not None:
            raise ConfigError("--features belongs to one evaluation: a study extracts those of each arm")
        arms = arms_of(self.study, making, self.count, self.text_scales, self.map_scales)
        evaluations = {
            arm.name: self._evaluation(arm.making, folder / arm.name, arm.entries, extraction) for arm in arms
        }
        self._start()
        found = run_study(self.study, evaluations, folder, Loader(making, self.mesh))
        if found is not None:
            show_study(self.study, *found)

    def _compare(self) -> None:
        from con360av_jax.evaluate.compare import differences, open_evaluations, page_differences, write_differences
        from con360av_jax.evaluate.page import write_comparison
        from con360av_jax.evaluate.show import show_comparison

        out = self.out or Path("comparison.html")
        if out.suffix != ".html":
            raise ConfigError(f"--out {out}: a comparison is one page, give a name that ends in .html")
        named = open_evaluations(self.compare)
        found = differences(named, self.seed, self.draws)
        write_differences(named, found, out.with_suffix(".json"))
        folders = [path.parent if path.is_file() else path for path in self.compare]
        show_comparison(named, found, write_comparison(named, out, folders, page_differences(found)))

    def _start(self) -> None:
        from con360av_jax.runtime.compile_cache import enable_compile_cache
        from con360av_jax.train.cluster import Cluster, join

        enable_compile_cache()
        join(
            Cluster(
                detect=self.distributed,
                coordinator=self.coordinator,
                processes=self.processes,
                process_id=self.process_id,
            )
        )

    def _published(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for text in self.paper:
            name, _, value = text.partition("=")
            try:
                found[name] = float(value)
            except ValueError as error:
                raise ConfigError(f"--paper {text}: give NAME=VALUE, such as s_kl=0.5") from error
        return found

    def _command(self) -> str:
        """The options that are not left out, as a user would type them."""
        words = ["con360av", "evaluate"]
        for option in fields(self):
            value, flag = getattr(self, option.name), f"--{option.name.replace('_', '-')}"
            if option.name == "mesh":
                words += [w for axis, size in vars(value).items() if size != 1 for w in (f"{flag}.{axis}", str(size))]
            elif value is True:
                words.append(flag)
            elif value not in (None, (), "", False) and value != option.default:
                words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
        return shlex.join(words)
