"""A complete evaluation: generated clips, targets, features, metrics, metrics.json and its page, all resumable."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import jax
from rich.console import Console
from rich.text import Text

from con360av_jax.config.files import unstructure
from con360av_jax.config.settings import Dtype, MeshConfig
from con360av_jax.data.schema import SampleEntry
from con360av_jax.diffusion.sampler import trajectories
from con360av_jax.evaluate import generate
from con360av_jax.evaluate.control_metrics import control_metrics
from con360av_jax.evaluate.evaluation_page import write_page
from con360av_jax.evaluate.extraction import Extraction, Pair, check_networks, extract, require_weights
from con360av_jax.evaluate.faults import FAULTS, fault_metrics, find_faults, without_faulty_targets
from con360av_jax.evaluate.feature_metrics import Found, compute, measures
from con360av_jax.evaluate.features import FeatureCard
from con360av_jax.evaluate.generate import GENERATED, TARGETS, Share
from con360av_jax.evaluate.judge_metrics import NAMES, judge_metrics
from con360av_jax.evaluate.metrics.bootstrap import DRAWS
from con360av_jax.evaluate.protocols import Protocol, parts
from con360av_jax.evaluate.results import ClipScores, Metric, Results, write_results
from con360av_jax.evaluate.scene_truths import check_truth, write_truth
from con360av_jax.evaluate.selection import EvaluatedClip, read_clips
from con360av_jax.evaluate.settings import Making, Weights, keep_to
from con360av_jax.evaluate.training_data import trained_on
from con360av_jax.model import Con360AV, load
from con360av_jax.runtime.files import remove_leftovers
from con360av_jax.runtime.provenance import versions
from con360av_jax.sharding import make_mesh

PACKAGES = ("con360av-jax", "jax", "numpy", "scipy", "opencv-python-headless", "av")
CLIPS_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Inputs of one evaluation folder."""

    folder: Path
    making: Making
    entries: tuple[SampleEntry, ...]
    """Records to evaluate, in the order of `choose`."""
    protocol: Protocol
    extraction: Extraction
    batch_size: int
    truth: Path | None = None
    """Folder of the procedural scenes with ground truth that the dataset was made from; None without any."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """Published values by name of the metric, one of `metric_names`."""
    command: str = ""
    draws: int = DRAWS


def metric_names(protocol: Protocol, truth: bool) -> tuple[str, ...]:
    """Names of the metrics that an evaluation computes, with or without ground truth."""
    made = parts(protocol)
    names = ["s_kl"] if "saliency" in made else []
    for one in measures(protocol):
        names += [one.name, f"{one.name}_infinity", f"{one.part}_distance"]
    names += NAMES if protocol.judge is not None else []
    names.append("av_align")
    names += ["share_in_view", "direction_error", "direction_error_all"] if truth and "saliency" in made else []
    names += ["class_agreement"] if truth and "classes" in made else []
    return (*names, *FAULTS)


Loader = Callable[[Weights, Dtype], Con360AV]
"""Loads the model of some weights, to compute in a dtype."""


def loader(mesh: MeshConfig) -> Loader:
    """Returns a function that loads models on the mesh and keeps the last one.

    Raises ShardingError if the mesh does not fit this process's devices.
    """
    make_mesh(mesh, local=True)

    @lru_cache(maxsize=1)
    def loaded(weights: Weights, dtype: Dtype) -> Con360AV:
        with Console(stderr=True).status(Text(f"reading {weights.path}")):
            return load(weights.path, ema=weights.kind != "trained", mesh=mesh, local=True, dtype=dtype)

    return loaded


def generate_all(evaluations: Sequence[Evaluation], load_model: Loader) -> bool:
    """Generates the clips and writes the targets; returns whether this process continues with the metrics.

    Each process generates its share and waits until all clips are on disk; only process 0 continues.

    Raises ConfigError for impossible settings or missing or unusable weights, or if a folder belongs to other settings,
    MetricError if the judges lack the truth of a record.
    """
    share = Share(jax.process_index(), jax.process_count())
    # Checked before folders are bound to these settings, because they would refuse the corrected ones.
    for one in evaluations:
        trajectories(one.making.weights.config.schedule, one.making.sampler)
        if one.protocol.judge is not None:
            check_truth(one.truth, one.making.dataset.manifest, one.entries)
    extracting = [one for one in evaluations if require_weights(one.folder, one.protocol, one.extraction)]
    if extracting and share.index == 0:
        check_networks(extracting[0].protocol, extracting[0].extraction)  # those of a study or a table are the same
    for one in evaluations:
        settings, unrecorded = one.making.settings(one.protocol.name), one.making.unrecorded()
        keep_to(one.folder, settings, write=share.index == 0, unrecorded=unrecorded)
    for number, one in enumerate(evaluations):
        if share.index == 0:
            _targets(one, evaluations[:number])
        load_one = partial(load_model, one.making.weights, one.making.dtype)
        generate.generate(one.folder, one.entries, one.making, load_one, one.batch_size, share)
    if share.count > 1:
        for one in evaluations:
            share.wait_for(generate.files(one.folder, GENERATED, one.entries))
        jax.distributed.shutdown()
    if share.index == 0:
        for one in evaluations:
            remove_leftovers(one.folder / GENERATED)
            remove_leftovers(one.folder / TARGETS)
    return share.index == 0


def _targets(one: Evaluation, before: Sequence[Evaluation]) -> None:
    """Writes the targets, or links those of an earlier variant with the same records."""
    for other in before:
        sources = generate.files(other.folder, TARGETS, one.entries)
        for source, path in zip(sources, generate.files(one.folder, TARGETS, one.entries), strict=True):
            if source.is_file() and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.hardlink_to(source)
    generate.write_targets(one.folder, one.entries, one.making)


def measure(one: Evaluation) -> tuple[Results, dict[str, Pair]]:
    """Extracts features, computes metrics and writes metrics.json and its page; returns results and features.

    The features are without faulty targets. Raises MetricError as `extract`, `find_faults`, `compute` and
    `control_metrics` do.
    """
    clips = read_clips(one.folder)
    names, config, draw = [clip.clip for clip in clips], one.making.weights.config, (one.making.seed, one.draws)
    features = extract(one.folder, clips, one.protocol, one.extraction, config)
    with Console(stderr=True).status("looking for silent and black clips"):
        faults = find_faults(one.folder, clips, config)
    features = without_faulty_targets(features, faults)
    with Console(stderr=True).status("computing distances and intervals"):
        found = compute(one.protocol, features, names, *draw)
    with Console(stderr=True).status("measuring control"):
        control = control_metrics(one.folder, one.truth, config, faults, *draw)
    judged = Found()
    if one.protocol.judge is not None:
        truth = one.truth or write_truth(one.folder, one.making.dataset.manifest, one.entries)
        judged = judge_metrics(one.folder, truth, config, one.protocol.judge, faults, *draw)
    for more in (judged, control, fault_metrics(faults, names, *draw)):
        found.add(more)
    cards = {part: generated.card for part, (generated, _) in features.items()}
    results = _results(one, clips, found, cards)
    write_results(results, one.folder)
    write_page(one.folder)
    return results, features


def _results(
    one: Evaluation, clips: Sequence[EvaluatedClip], found: Found, cards: Mapping[str, FeatureCard]
) -> Results:
    made_from = one.making.settings(one.protocol.name) | {
        "clips": len(clips),
        "batch_size": one.batch_size,
        "truth": "" if one.truth is None else str(one.truth),
        "network_weights": {name: str(path) for name, path in one.extraction.weights.items()},
        "draws": one.draws,
        "trained_on": trained_on(one.making.weights, one.making.dataset, one.entries),
    }
    return Results(
        protocol=unstructure(one.protocol),
        made_from=made_from,
        metrics=tuple(_with_paper(found.metrics, one.paper)),
        clips=tuple(
            ClipScores(
                clip=clip.clip,
                generated=f"{GENERATED}/{clip.clip}.mp4",
                target=f"{TARGETS}/{clip.clip}.mp4",
                caption=clip.caption,
                viewpoint=clip.middle,
                scores=found.scores.get(clip.clip, {}),
            )
            for clip in clips
        ),
        exclusions=tuple(found.exclusions),
        cards=dict(cards),
        versions=versions(PACKAGES),
        command=one.command,
    )


def _with_paper(metrics: Sequence[Metric], paper: Mapping[str, float]) -> list[Metric]:
    return [replace(metric, paper=paper.get(metric.name, metric.paper)) for metric in metrics]
