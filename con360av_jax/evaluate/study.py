"""Studies: evaluations of several variants that differ in one setting, and a page that compares them.

viewpoints  the same scenes, captions and noise from each viewpoint of the dataset; adds Fréchet distances between
            the clips of each two viewpoints, and one over all pairs of viewpoints (viewpoint_distances.py)
guidance    each pair of a text and a map guidance scale
steps       each number of sampling steps
ablation    without saliency, BASD, caption or all control (`settings.Conditions`)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from rich.console import Console

from con360av_jax.config.files import unstructure
from con360av_jax.data.schema import SampleEntry
from con360av_jax.errors import ConfigError
from con360av_jax.evaluate.compare import Difference, NamedResults, differences, write_differences
from con360av_jax.evaluate.comparison_page import write_comparison
from con360av_jax.evaluate.extraction import FEATURES, Pair, take_features
from con360av_jax.evaluate.generate import TARGETS
from con360av_jax.evaluate.results import Metric
from con360av_jax.evaluate.run import Evaluation, Loader, generate_all, measure
from con360av_jax.evaluate.selection import choose_records, choose_scenes, complete_scenes
from con360av_jax.evaluate.settings import ABLATION, Making, sampler_of
from con360av_jax.evaluate.viewpoint_distances import Between, viewpoint_distances

Study: TypeAlias = Literal["viewpoints", "guidance", "ablation", "steps"]
STUDY = "study"


def study_variants(
    study: Study,
    making: Making,
    count: int | None,
    text: Sequence[str] = (),
    maps: Sequence[str] = (),
    scenes: int | None = None,
    steps: Sequence[int] = (),
) -> dict[str, tuple[Making, tuple[SampleEntry, ...]]]:
    """Settings and records of each variant of a study, by name.

    `count` and `scenes` choose records as `choose_records` does; for "viewpoints" either is a number of segments.
    `text` and `maps` are guidance scales for "guidance", as `scales` reads them; `steps` is for "steps".

    Raises ConfigError or DatasetError if the study is not possible with these settings or this dataset.
    """
    entries = making.dataset.samples
    if study == "viewpoints":
        views = choose_scenes(complete_scenes(entries), count if scenes is None else scenes, making.seed)
        shared = replace(making, noise="scene")
        return {f"viewpoint_{number}": (shared, chosen) for number, chosen in views.items()}
    chosen = choose_records(entries, count, scenes, making.seed)
    if study == "ablation":
        makings = {name: replace(making, conditions=conditions) for name, conditions in ABLATION.items()}
    elif study == "steps":
        if not steps:
            raise ConfigError("--study steps: give --step-counts, such as --step-counts 10 25 50")
        makings = {
            f"steps_{number}": replace(making, sampler=replace(making.sampler, steps=number)) for number in steps
        }
    else:
        makings = _grid(making, text, maps)
    return {name: (one, chosen) for name, one in makings.items()}


def _grid(making: Making, text: Sequence[str], maps: Sequence[str]) -> dict[str, Making]:
    if not text and not maps:
        raise ConfigError("--study guidance: give --text-scales, --map-scales or both, such as --map-scales 1 2 4")
    found = {}
    for one, other in product(text or ("",), maps or ("",)):
        sampler = sampler_of(making.sampler, None, one, other)
        words = [f"{word}_{said}" for word, said in (("text", one), ("map", other)) if said]
        found["_".join(words).replace("=", "").replace(",", "_")] = replace(making, sampler=sampler)
    return found


class Studied(NamedTuple):
    """Results of a study."""

    named: list[NamedResults]
    """Results by variant."""
    differences: list[Difference]
    """Differences of the variants from the first; empty for viewpoints."""
    page: Path
    between_viewpoints: list[Metric]
    """One distance for each measure over all pairs of viewpoints; empty for other studies."""


def run_study(study: Study, evaluations: Mapping[str, Evaluation], folder: Path, load_model: Loader) -> Studied | None:
    """Generates the clips of all variants, then `measure_study`; None in a process that only generates."""
    return measure_study(study, evaluations, folder) if generate_all(tuple(evaluations.values()), load_model) else None


def measure_study(study: Study, evaluations: Mapping[str, Evaluation], folder: Path) -> Studied:
    """Measures all variants, whose clips are there, and writes FOLDER/study.json and study.html.

    Raises as `run.measure` and `viewpoint_distances` do.
    """
    named: list[NamedResults] = []
    features: list[Mapping[str, Pair]] = []
    first = next(iter(evaluations.values()))
    for name, one in evaluations.items():
        if one is not first and study != "viewpoints":
            share_targets(first.folder, one.folder)
        results, found = measure(one)
        named.append((name, results))
        features.append(found)
    between: Between = {}
    pooled: list[Metric] = []
    if study == "viewpoints":
        with Console(stderr=True).status("comparing viewpoints"):
            between, pooled = viewpoint_distances(tuple(evaluations.values()), features)
    for number, (name, results) in enumerate(named):
        added = [metric for (variant, *_), metric in between.items() if variant == name]
        named[number] = name, replace(results, metrics=(*results.metrics, *added))
    found_differences = [] if study == "viewpoints" else differences(named, first.making.seed, first.draws)
    write_differences(
        named,
        found_differences,
        folder / f"{STUDY}.json",
        study=study,
        between=[{"arm": name, "from": other, **unstructure(metric)} for (name, other, _), metric in between.items()],
        between_all=[unstructure(metric) for metric in pooled],
    )
    folders = [one.folder for one in evaluations.values()]
    page = write_comparison(named, folder / f"{STUDY}.html", folders, found_differences)
    return Studied(named, found_differences, page, pooled)


def share_targets(source: Path, folder: Path) -> None:
    """Gives a variant the target features of another, because their targets are the same files."""
    if (source / FEATURES / TARGETS).is_dir() and not (folder / FEATURES / TARGETS).exists():
        take_features(source / FEATURES / TARGETS, folder / FEATURES / TARGETS)
