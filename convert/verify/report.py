"""Results of `verify`: a table for the terminal, one self-contained HTML page, and JSON."""

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
from rich.table import Table as Grid
from rich.text import Text

from con360av_jax.base.pretrained import base_hash, open_pretrained
from con360av_jax.errors import CheckpointError
from con360av_jax.pages.environment import page_environment
from con360av_jax.runtime.files import write_text
from con360av_jax.runtime.provenance import versions
from convert.torch_files.folders import Sources
from convert.verify.compare import PartResult, passed
from convert.verify.layers import Comparison

PACKAGES = ("con360av-jax", "jax", "flax", "numpy", "torch", "diffusers", "transformers")
HEADINGS = (
    "part",
    "error",
    "worst\nlayer",
    "first layer\nthat diverges",
    "original\ns",
    "converted\ns",
    "result",
)
VERDICTS: Mapping[bool | None, str] = {True: "equal", False: "differs", None: "not compared"}


def environment(sources: Sources, base: Path) -> dict[str, str]:
    """Conditions of the measurement: origins of both sides, the machine, and package versions."""
    import torch

    return {
        "sources": sources.origin,
        "base": f"{base.resolve().name}: {open_pretrained(base).report['origin']}",
        "base's sha256": base_hash(base),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "original ran on": f"cpu, {torch.get_num_threads()} threads",
        "converted ran on": jax.devices()[0].device_kind,
        **versions(PACKAGES),
    }


def render(results: Sequence[PartResult]) -> Grid:
    """One row per part, for the terminal."""
    grid = Grid()
    for heading in HEADINGS:
        text = heading in ("part", "first layer\nthat diverges")
        wrapped = heading == "first layer\nthat diverges"
        grid.add_column(heading, overflow="fold", justify="left" if text else "right", no_wrap=not wrapped)
    # Below the table: beside the numbers a terminal is too narrow for it.
    originals = [": ".join((result.part, "; ".join((result.original, *result.notes)))) for result in results]
    grid.caption, grid.caption_justify = Text("\n".join(originals)), "left"
    styles = {True: "green", False: "bold red", None: "dim"}
    for result in results:
        cells = (
            result.part,
            number_or_dash(result.error),
            number_or_dash(result.layer_error),
            result.diverging or "-",
            *(seconds(result, value) for value in (result.original_seconds, result.converted_seconds)),
        )
        # As text: rich would read brackets in a layer name as markup.
        grid.add_row(*map(Text, cells), Text(VERDICTS[result.passed], style=styles[result.passed]))
    return grid


def write_html(results: Sequence[PartResult], path: Path, environment: Mapping[str, str]) -> None:
    """Writes the page with every layer's error; replaces `path` in one step.

    Raises CheckpointError if it cannot be written.
    """
    filters = {"number": number_or_dash, "worst_layer": worst_layer, "seconds": seconds}
    template = page_environment("convert.verify", **filters).get_template("report.html")
    page = template.render(results=results, passed=passed(results), environment=environment, verdicts=VERDICTS)
    write_text(path, page, CheckpointError)


def write_json(results: Sequence[PartResult], path: Path, environment: Mapping[str, str]) -> None:
    """Writes every number as JSON; replaces `path` in one step. Errors that are NaN or infinite become strings.

    Raises CheckpointError if it cannot be written.
    """
    parts = [
        {
            "part": result.part,
            "original": result.original,
            "passed": result.passed,
            "error": _finite(result.error),
            "tolerance": result.tolerance,
            "worst_layer": worst_layer(result),
            "worst_layer_error": _finite(result.layer_error),
            "layer_tolerance": result.layer_tolerance,
            "first_layer_that_diverges": result.diverging,
            "original_seconds": result.original_seconds,
            "converted_seconds": result.converted_seconds,
            "inputs": result.inputs,
            "outputs": _rows(result.outputs),
            "layers": _rows(result.layers),
            "notes": result.notes,
        }
        for result in results
    ]
    document = {"passed": passed(results), "environment": environment, "parts": parts}
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n", CheckpointError)


def _rows(comparisons: Iterable[Comparison]) -> list[dict[str, object]]:
    return [{"name": row.name, "error": _finite(row.error), "note": row.note} for row in comparisons]


def _finite(error: float | None) -> float | str | None:
    # JSON has neither NaN nor infinity.
    return error if error is None or math.isfinite(error) else str(error)


def worst_layer(result: PartResult) -> str:
    """Name of the layer with the largest error; "" if no layer was compared."""
    return next((row.name for row in result.layers if row.error is result.layer_error and row.error is not None), "")


def number_or_dash(error: float | None) -> str:
    """An error with two digits."""
    return "-" if error is None else f"{error:.1e}"


def seconds(result: PartResult, value: float) -> str:
    """A time in s; a dash if nothing ran."""
    return "-" if result.passed is None else f"{value:.3f}"
