"""The HTML pages of an evaluation: its numbers and its clips, and several evaluations beside each other."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader

from con360av_jax.config.files import leaves, unstructure, write_text
from con360av_jax.evaluate import digits, score_plots, side_by_side
from con360av_jax.evaluate.examples import angles, example, link, open_maps, ranked
from con360av_jax.evaluate.results import Exclusion, Metric, Results, read_results

PAGE = "metrics.html"
LISTED = 300
"""Exclusions that a page lists; the others are counted."""
CAPTION = 140
"""Characters of a caption in the table of all clips."""
_DIGEST = 12
_GROUP = 24


@dataclass(frozen=True, kw_only=True)
class Score:
    """A column of the table of all clips."""

    name: str
    title: str
    about: str
    sorted: str
    """What aria-sort says: the rows are written the worst first."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One clip in the table of all."""

    clip: str
    caption: str
    angles: tuple[str, ...]
    links: tuple[tuple[str, str, str], ...]
    """What, its address, and its file; the address is empty where the file is missing."""
    scores: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """How often a metric leaves something out for one reason."""

    metric: str
    reason: str
    clips: int
    frames: int


def write_page(folder: Path) -> Path:
    """Writes FOLDER/metrics.html from FOLDER/metrics.json, in one step; films stay beside it as files.

    What is missing or damaged of the films and maps is named where it would stand. Raises MetricError if metrics.json
    cannot be read.
    """
    results, page = read_results(folder), folder / PAGE
    ranking = ranked(results)
    worst, best = ranking.chosen()
    maps, without_maps = open_maps(folder, "saliency" in results.cards)
    scores = _columns(results, ranking.metric)
    told = leaves(results.made_from)
    html = (
        _environment()
        .get_template("page.html")
        .render(
            results=results,
            run=_run_name(results, folder),
            facts=_facts(results, told),
            made_from=_grouped(_without(results.made_from, "protocol", "clips")),
            settings=json.dumps(results.made_from, indent=2, ensure_ascii=False),
            commit=results.versions.get("commit", ""),
            quoted=any(metric.paper is not None for metric in results.metrics),
            plots=_histograms(results),
            exclusions=_counted(results.exclusions),
            listed=results.exclusions[:LISTED],
            titles={metric.name: metric.title for metric in results.metrics},
            ranking=ranking,
            groups=[
                (word, [example(clip, folder, page, maps) for clip in clips])
                for word, clips in (("worst", worst), ("best", best))
                if clips
            ],
            without_maps=without_maps,
            scores=scores,
            rows=_rows(results, ranking.clips, scores, folder, page),
            cards={part: _card(unstructure(card)) for part, card in results.cards.items()},
            protocol=_grouped(
                {
                    name: value
                    for name, value in results.protocol.items()
                    if name not in ("name", "left_open", "sources")
                }
            ),
        )
    )
    write_text(page, html)
    return page


def write_comparison(
    results: Sequence[tuple[str, Results]],
    out: Path,
    folders: Sequence[Path] | None = None,
    differences: Mapping[str, Metric] | None = None,
) -> Path:
    """Writes a page with two evaluations or more beside each other, in one step.

    Args:
        results: each evaluation with the name of its arm.
        out: the page.
        folders: the folder of each evaluation, in the same order; None shows no films.
        differences: paired differences by any key, each a Metric whose title says what is subtracted from what.
    """
    full = [name for name, _ in results]
    short = side_by_side.short_names(full)
    arms = [(name, found) for name, (_, found) in zip(short, results, strict=True)]
    shared = side_by_side.shared_clips(arms)
    html = (
        _environment()
        .get_template("comparison.html")
        .render(
            arms=list(zip(short, full, strict=True)),
            results=results,
            unlike=side_by_side.unlike(arms),
            metrics=side_by_side.metric_rows(arms),
            differences=[(found, side_by_side.excludes_zero(found)) for found in (differences or {}).values()],
            settings=side_by_side.differing(arms),
            plots=side_by_side.interval_plots(arms),
            scatters=side_by_side.scatters(arms, shared),
            shared=shared,
            apart=side_by_side.most_apart(arms, shared, folders, out),
            shows_films=folders is not None,
        )
    )
    write_text(out, html)
    return out


def _environment() -> Environment:
    # The house's style sheet and the button that plays lie with the report.
    loader = ChoiceLoader([PackageLoader("con360av_jax.evaluate", "."), PackageLoader("con360av_jax.pages", ".")])
    environment = Environment(loader=loader, autoescape=True)
    environment.filters |= {
        "number": digits.number,
        "value": digits.metric_value,
        "interval": digits.metric_interval,
        "json": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    }
    environment.globals |= {"beside": digits.beside, "dash": digits.DASH}
    return environment


def _run_name(results: Results, folder: Path) -> str:
    """Of the run that made the clips, else of the folder."""
    run = results.made_from.get("run", "")
    path = Path(str(run.get("path", "") if isinstance(run, Mapping) else run))
    return (path.parent.parent if path.parent.name == "checkpoints" else path).name or folder.resolve().name


def _facts(results: Results, told: Mapping[str, object]) -> dict[str, str]:
    """What a reader wants to know first; what the settings do not say is left out."""
    left_out = len({exclusion.clip for exclusion in results.exclusions})
    facts = {
        "protocol": results.protocol.get("name"),
        "clips": f"{len(results.clips):,}",
        "with something left out": f"{left_out:,}",
        "trained steps": told.get("run.step", told.get("step")),
        "seed": told.get("seed"),
        "sampling steps": told.get("sampler.steps"),
    }
    return {
        name: f"{value:,}" if isinstance(value, int) and name != "seed" else str(value)
        for name, value in facts.items()
        if value not in (None, "")
    }


def _without(settings: Mapping[str, object], *names: str) -> dict[str, object]:
    """What is not said elsewhere on the page."""
    return {name: value for name, value in settings.items() if name not in names}


def _grouped(settings: Mapping[str, object]) -> dict[str, list[tuple[str, str]]]:
    """Settings by their first name, each as names and values; long lists of digits are cut."""
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
    plots = []
    for metric in results.metrics:
        scores = np.array([clip.scores[metric.name] for clip in results.clips if metric.name in clip.scores])
        if len(scores):
            plots.append(score_plots.histogram(metric, scores))
    return plots


def _counted(exclusions: Sequence[Exclusion]) -> list[LeftOut]:
    """By metric and reason, the most frequent first."""
    groups: dict[tuple[str, str], list[Exclusion]] = {}
    for exclusion in exclusions:
        groups.setdefault((exclusion.metric, exclusion.reason), []).append(exclusion)
    counted = [
        LeftOut(
            metric=metric,
            reason=reason,
            clips=len({exclusion.clip for exclusion in members}),
            frames=sum(exclusion.frame is not None for exclusion in members),
        )
        for (metric, reason), members in groups.items()
    ]
    return sorted(counted, key=lambda found: -max(found.clips, found.frames))


def _columns(results: Results, first: Metric | None) -> list[Score]:
    known = {metric.name: metric for metric in results.metrics}
    spoken = {name: None for clip in results.clips for name in clip.scores}
    order = [name for name in known if name in spoken] + [name for name in spoken if name not in known]
    columns = []
    for name in order:
        metric = known.get(name)
        worst_first = metric is not None and metric is first
        direction = "descending" if metric and metric.lower_is_better else "ascending"
        unit = f", {metric.unit}" if metric and metric.unit else ""
        columns.append(
            Score(
                name=name,
                title=f"{name}{unit}",
                about=metric.title if metric else name,
                sorted=direction if worst_first else "none",
            )
        )
    return columns


def _rows(results: Results, clips: Sequence, scores: Sequence[Score], folder: Path, page: Path) -> list[Row]:
    return [
        Row(
            clip=clip.clip,
            caption=clip.caption if len(clip.caption) <= CAPTION else f"{clip.caption[:CAPTION].rstrip()}…",
            angles=tuple(digits.number(angle, 10.0) for angle in angles(clip)),
            links=tuple(
                (word, link(folder / file, page), file)
                for word, file in (("generated", clip.generated), ("target", clip.target))
            ),
            scores=tuple(digits.number(clip.scores.get(score.name)) for score in scores),
        )
        for clip in clips
    ]


def _card(card: dict[str, object]) -> dict[str, object]:
    """A card for reading: what is long is in its JSON only."""
    return {
        "kind": card["kind"],
        "model": card["model"],
        "weights": _short(card["weights_sha256"]),
        "clips": card["clips"],
        "rows": card["rows"],
        "json": json.dumps(card, indent=2, ensure_ascii=False),
    }
