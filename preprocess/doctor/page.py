"""HTML page of an examination: findings, statistics of the data, and samples to see and hear."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from rich.filesize import decimal

from con360av_jax.pages.environment import page_environment
from con360av_jax.runtime.files import write_text
from preprocess.doctor.checks import CHECKS
from preprocess.doctor.examine import Examination, Examined
from preprocess.doctor.statistics import CELL, FOV_EDGES, LEVEL_EDGES, WORD_EDGES


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram."""

    label: str
    count: int
    share: float
    """Height relative to the highest bar."""


@dataclass(frozen=True)
class Cell:
    """One cell of the map of directions; x and y in degrees from the panorama's top left corner."""

    x: int
    y: int
    count: int
    share: float


def write_page(examination: Examination, out: Path) -> Path:
    """Writes one self-contained page to `out`, replaced in one step; all text from files is escaped."""
    template = page_environment("preprocess.doctor").get_template("page.html")
    findings = examination.findings
    html = template.render(
        looked=sum(tally.looked_at > 0 for tally in findings.tallies.values()),
        names=[examined.name for examined in examination.datasets],
        errors=findings.count("error"),
        warnings=findings.count("warning"),
        findings=findings.listed(),
        unlisted=findings.unlisted(),
        checks=[(name, check, findings.tallies[name]) for name, check in CHECKS.items()],
        datasets=[_shown(examined) for examined in examination.datasets],
    )
    write_text(out, html)
    return out


def _shown(examined: Examined) -> dict[str, object]:
    """Values of one dataset for the template."""
    manifest, statistics = examined.manifest, examined.statistics
    return {
        "examined": examined,
        "facts": _facts(examined),
        "settings": {} if manifest is None else manifest.settings,
        "tools": {} if manifest is None else manifest.tools,
        "fields": () if manifest is None else manifest.fields,
        "config": "" if manifest is None else manifest.config.get("name", ""),
        "cell": CELL,
        "cells": _cells(statistics.directions),
        "histograms": {
            "Field of view, degrees": _bars(statistics.fields_of_view, FOV_EDGES),
            "Length of captions, words": _bars(statistics.words, WORD_EDGES),
            "Loudness, dBFS": _bars(statistics.levels, LEVEL_EDGES),
        },
    }


def _facts(examined: Examined) -> dict[str, str]:
    """Key facts of a dataset, by label."""
    manifest = examined.manifest
    if manifest is None:
        return {}
    hours = examined.hours
    length = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    return {
        "samples": f"{manifest.samples:,}",
        "clips": f"{len(examined.seen.clips):,}",
        "source videos": f"{len(examined.seen.sources):,}",
        "segments": f"{sum(map(len, examined.seen.clips.values())):,}",
        "of video": length,
        "shards": f"{len(manifest.shards):,}",
        "size": decimal(sum(shard.bytes for shard in manifest.shards)),
        "rejected": f"{manifest.rejected:,}",
    }


def _bars(counts: Int[np.ndarray, "bin"], edges: Sequence[int]) -> list[Bar]:
    """Bars from the first to the last non-empty bin, with one empty bin on each side; none if all are empty."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return []
    highest = int(counts.max())
    return [
        Bar(_label(edges, number), int(counts[number]), int(counts[number]) / highest)
        for number in range(max(filled[0] - 1, 0), min(filled[-1] + 2, len(counts)))
    ]


def _label(edges: Sequence[int], number: int) -> str:
    low, high = edges[number], edges[number + 1]
    return f"{low} and more" if high == WORD_EDGES[-1] else f"{low} to {high}"


def _cells(directions: Int[np.ndarray, "latitude longitude"]) -> list[Cell]:
    highest = int(directions.max()) or 1
    return [
        Cell(int(column) * CELL, int(row) * CELL, int(directions[row, column]), int(directions[row, column]) / highest)
        for row, column in np.argwhere(directions)
    ]
