"""Studies: evaluations of several variants that differ in one setting, and a page that compares them.

viewpoints  the same scenes, captions and noise from each viewpoint of the dataset; adds the Fréchet distance
            between the clips of each two viewpoints, and between their targets for reference
guidance    each pair of a text and a map guidance scale
ablation    without saliency, BASD, caption or all control (`settings.Conditions`)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Literal, TypeAlias

from con360av_jax.config.files import unstructure
from con360av_jax.data.schema import SampleEntry
from con360av_jax.errors import ConfigError, MetricError
from con360av_jax.evaluate.compare import Difference, NamedResults, differences, write_differences
from con360av_jax.evaluate.comparison_page import write_comparison
from con360av_jax.evaluate.extraction import FEATURES, Pair, take_features
from con360av_jax.evaluate.feature_metrics import Measure, frechet_metrics, measures
from con360av_jax.evaluate.features import FeatureSet, require_same_card
from con360av_jax.evaluate.generate import TARGETS
from con360av_jax.evaluate.metrics.frechet import accumulate, frechet_distance
from con360av_jax.evaluate.pairs import select_clips
from con360av_jax.evaluate.results import Metric
from con360av_jax.evaluate.run import Evaluation, generate_all, measure
from con360av_jax.evaluate.selection import choose, choose_scenes, clip_name, complete_scenes
from con360av_jax.evaluate.settings import ABLATION, Making, sampler_of
from con360av_jax.model import Con360AV

Study: TypeAlias = Literal["viewpoints", "guidance", "ablation"]
STUDY = "study"


def study_variants(
    study: Study, making: Making, count: int | None, text: Sequence[str] = (), maps: Sequence[str] = ()
) -> dict[str, tuple[Making, tuple[SampleEntry, ...]]]:
    """Settings and records of each variant of a study, by name.

    `text` and `maps` are guidance scales for "guidance", as `scales` reads them.

    Raises ConfigError or DatasetError if the study is not possible with these settings or this dataset.
    """
    entries = making.dataset.samples
    if study == "viewpoints":
        views = choose_scenes(complete_scenes(entries), count, making.seed)
        shared = replace(making, noise="scene")
        return {f"viewpoint_{number}": (shared, chosen) for number, chosen in views.items()}
    chosen = choose(entries, count, making.seed)
    if study == "ablation":
        makings = {name: replace(making, conditions=conditions) for name, conditions in ABLATION.items()}
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


def run_study(
    study: Study, evaluations: Mapping[str, Evaluation], folder: Path, load_model: Callable[[], Con360AV]
) -> tuple[list[NamedResults], list[Difference], Path] | None:
    """Evaluates all variants and writes FOLDER/study.json and study.html.

    Returns the results by variant, their differences from the first, and the page; None in a process that only
    generates. Raises as `run.measure` does.
    """
    if not generate_all(tuple(evaluations.values()), load_model):
        return None
    named: list[NamedResults] = []
    features: list[Mapping[str, Pair]] = []
    first = next(iter(evaluations.values()))
    for name, one in evaluations.items():
        if one is not first and study != "viewpoints":
            _share_targets(first.folder, one.folder)
        results, found = measure(one)
        named.append((name, results))
        features.append(found)
    between = _between(tuple(evaluations.values()), features) if study == "viewpoints" else {}
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
    )
    folders = [one.folder for one in evaluations.values()]
    page = write_comparison(named, folder / f"{STUDY}.html", folders, found_differences)
    return named, found_differences, page


def _share_targets(source: Path, folder: Path) -> None:
    """Gives a variant the target features of another, because their targets are the same files."""
    if (source / FEATURES / TARGETS).is_dir() and not (folder / FEATURES / TARGETS).exists():
        take_features(source / FEATURES / TARGETS, folder / FEATURES / TARGETS)


Between = dict[tuple[str, str, str], Metric]
"""Fréchet distances by variant, the variant it is compared with, and name of the metric."""


def _between(evaluations: Sequence[Evaluation], features: Sequence[Mapping[str, Pair]]) -> Between:
    """Fréchet distances between the clips of each viewpoint and those of each earlier viewpoint."""
    found: Between = {}
    for (one, mine), (other, theirs) in combinations(zip(evaluations, features, strict=True), 2):
        for measure_ in measures(one.protocol):
            pairs = mine[measure_.part], theirs[measure_.part]
            metric = _viewpoint_distance(measure_, (one, other), pairs)
            found[other.folder.name, one.folder.name, measure_.name] = metric
    return found


def _viewpoint_distance(
    measure_: Measure, evaluations: tuple[Evaluation, Evaluation], pairs: tuple[Pair, Pair]
) -> Metric:
    """Fréchet distance between the clips of two viewpoints, over scenes whose four feature sets are complete."""
    one, other = evaluations
    names = [
        (clip_name(first.key), clip_name(second.key)) for first, second in zip(one.entries, other.entries, strict=True)
    ][: measure_.most]
    there = [[{clip.clip for clip in side.clips} for side in pair] for pair in pairs]
    kept = [pair for pair in names if all(pair[i] in side for i in (0, 1) for side in there[i])]
    if not kept:
        raise MetricError(f"{one.folder} and {other.folder} share no scene with {measure_.part} features: see rejected")
    sides: list[list[FeatureSet]] = []
    for side in (0, 1):
        groups = [select_clips(pairs[i][side], [pair[i] for pair in kept]) for i in (0, 1)]
        require_same_card(*groups)
        sides.append(groups)
    generated, targets = sides
    metric = frechet_metrics(measure_, generated[1], generated[0], one.making.seed, one.draws)[0]
    rows = min(sum(clip.rows for clip in group.clips) for group in targets)
    reference = (
        frechet_distance(accumulate(targets[1]), accumulate(targets[0]), measure_.covariance) if rows > 1 else None
    )
    left_out = len(names) - len(kept)
    notes = [metric.note, f"{left_out} scenes left out" if left_out else ""]
    return replace(
        metric,
        name=f"{measure_.name}_to_{one.folder.name}",
        title=f"{measure_.title} between the samples of {other.folder.name} and {one.folder.name}",
        lower_is_better=False,
        target=reference,
        note="; ".join(filter(None, notes)),
    )
