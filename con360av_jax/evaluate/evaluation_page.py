"""The HTML page of one evaluation: metrics, settings, exclusions, and videos of the worst and best clips."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from con360av_jax.config.files import leaves, unstructure
from con360av_jax.evaluate.examples import angles, example, link, open_maps, ranked
from con360av_jax.evaluate.faults import FAULTS
from con360av_jax.evaluate.metric_format import FILTERS, number
from con360av_jax.evaluate.metric_plots import histogram
from con360av_jax.evaluate.results import ClipScores, Exclusion, Metric, Results, read_results
from con360av_jax.pages.environment import page_environment
from con360av_jax.runtime.files import write_text

PAGE = "metrics.html"
LISTED = 300
"""Most exclusions listed on a page; the rest are counted."""
CAPTION = 140
"""Longest caption in the table of all clips, characters."""
_DIGEST = 12
_GROUP = 24


def write_page(folder: Path) -> Path:
    """Writes FOLDER/metrics.html from FOLDER/metrics.json in one step; videos stay separate files.

    The page names missing or corrupt videos and maps in their place. Raises MetricError if
    metrics.json cannot be read.
    """
    results, page = read_results(folder), folder / PAGE
    ranking = ranked(results)
    worst, best = ranking.chosen()
    maps, without_maps = open_maps(folder, "saliency" in results.cards)
    scores = _columns(results, ranking.metric)
    told = leaves(results.made_from)
    html = (
        page_environment("con360av_jax.evaluate", short=_short, **FILTERS)
        .get_template("evaluation_page.html")
        .render(
            results=results,
            run=_run_name(results, folder),
            facts=_facts(results, told),
            made_from=_grouped(_without(results.made_from, "protocol", "clips", "trained_on")),
            commit=results.versions.get("commit", ""),
            quoted=any(metric.paper is not None for metric in results.metrics),
            plots=_histograms(results),
            exclusions=_counted(results.exclusions),
            listed=results.exclusions[:LISTED],
            titles={metric.name: metric.title for metric in results.metrics},
            ranking=ranking,
            groups=[
                (word, [(clip, example(clip, folder, page, maps), angles(clip)) for clip in clips])
                for word, clips in (("worst", worst), ("best", best))
                if clips
            ],
            without_maps=without_maps,
            scores=scores,
            rows=_rows(ranking.clips, scores, folder, page),
            cards={part: unstructure(card) for part, card in results.cards.items()},
            protocol=_grouped(_without(results.protocol, "name", "left_open", "sources")),
        )
    )
    write_text(page, html)
    return page


def _run_name(results: Results, folder: Path) -> str:
    """Name of the run that generated the clips, or of the folder if the run is not recorded."""
    run = results.made_from.get("run", "")
    path = Path(str(run.get("path", "") if isinstance(run, Mapping) else run))
    return (path.parent.parent if path.parent.name == "checkpoints" else path).name or folder.resolve().name


def _facts(results: Results, told: Mapping[str, object]) -> dict[str, str]:
    """Key facts at the top of the page; a fact without a value is omitted."""
    excluded = len({exclusion.clip for exclusion in results.exclusions})
    faulty = {
        f"{name} clips": f"{_count(results, name):,} of {metric.clips:,}"
        for name in FAULTS
        if (metric := results.metric(name)) is not None
    }
    facts = {
        "protocol": results.protocol.get("name"),
        "clips": f"{len(results.clips):,}",
        "with exclusions": f"{excluded:,}",
        **faulty,
        "trained steps": told.get("run.step", told.get("step")),
        "seed": told.get("seed"),
        "sampling steps": told.get("sampler.steps"),
    }
    return {
        name: f"{value:,}" if isinstance(value, int) and name != "seed" else str(value)
        for name, value in facts.items()
        if value not in (None, "")
    }


def _count(results: Results, fault: str) -> int:
    """Number of generated clips with a fault."""
    return sum(clip.scores.get(fault) == 1 for clip in results.clips)


def _without(settings: Mapping[str, object], *names: str) -> dict[str, object]:
    """Settings without those of the given names."""
    return {name: value for name, value in settings.items() if name not in names}


def _grouped(settings: Mapping[str, object]) -> dict[str, list[tuple[str, str]]]:
    """Leaf names and shortened values of each top-level setting, at most _GROUP of each."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for group, inside in settings.items():
        found = list(leaves(inside).items())
        groups[group] = [(name, _short(value)) for name, value in found[:_GROUP] if value not in ("", None)]
        if len(found) > _GROUP:
            groups[group].append((f"and {len(found) - _GROUP} more", ""))
    return {group: found for group, found in groups.items() if found}


def _short(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    hexadecimal = len(text) > _DIGEST and not text.lower().strip("0123456789abcdef")
    return f"{text[:_DIGEST]}…" if hexadecimal else text


def _histograms(results: Results) -> list[str]:
    scores = {
        metric: [clip.scores[metric.name] for clip in results.clips if metric.name in clip.scores]
        for metric in results.metrics
        if metric.name not in FAULTS
    }
    return [histogram(metric, np.array(found)) for metric, found in scores.items() if found]


def _counted(exclusions: Sequence[Exclusion]) -> list[tuple[str, str, int, int]]:
    """Metric, reason, and numbers of clips and frames that are excluded, most frequent first."""
    groups: dict[tuple[str, str], list[Exclusion]] = {}
    for exclusion in exclusions:
        groups.setdefault((exclusion.metric, exclusion.reason), []).append(exclusion)
    counted = [
        (*group, len({one.clip for one in members}), sum(one.frame is not None for one in members))
        for group, members in groups.items()
    ]
    return sorted(counted, key=lambda found: -max(found[2:]))


def _columns(results: Results, first: Metric | None) -> list[dict[str, str]]:
    """Metric columns of the table of all clips; "sorted" is their aria-sort, because rows are written worst first."""
    known = {metric.name: metric for metric in results.metrics}
    unseen = {name for name in FAULTS if not _count(results, name)}
    spoken = {name: None for clip in results.clips for name in clip.scores if name not in unseen}
    order = [name for name in known if name in spoken] + [name for name in spoken if name not in known]
    columns = []
    for name in order:
        metric = known.get(name)
        worst_first = metric is not None and metric is first
        direction = "descending" if metric and metric.lower_is_better else "ascending"
        unit = f", {metric.unit}" if metric and metric.unit else ""
        about, order_of = metric.title if metric else name, direction if worst_first else "none"
        columns.append({"name": name, "title": f"{name}{unit}", "about": about, "sorted": order_of})
    return columns


def _rows(clips: Sequence[ClipScores], scores: Sequence[dict[str, str]], folder: Path, page: Path) -> list[dict]:
    """Rows of the table of all clips; a link has an empty address if the file is missing."""
    return [
        {
            "clip": clip.clip,
            "caption": clip.caption if len(clip.caption) <= CAPTION else f"{clip.caption[:CAPTION].rstrip()}…",
            "angles": [number(angle, 10.0) for angle in angles(clip)],
            "links": [
                (word, link(folder / file, page), file)
                for word, file in (("generated", clip.generated), ("target", clip.target))
            ],
            "scores": [number(clip.scores.get(score["name"])) for score in scores],
        }
        for clip in clips
    ]
