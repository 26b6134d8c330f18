"""The HTML page of Table 1: ours beside the paper's, ratios, intervals, and how the two runs were trained."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from con360av_jax.evaluate.examples import link
from con360av_jax.evaluate.metric_format import FILTERS
from con360av_jax.evaluate.metric_plots import intervals
from con360av_jax.evaluate.results import Metric
from con360av_jax.evaluate.table1 import (
    BASELINE,
    CON360AV,
    TABLE,
    TITLES,
    VIEWPOINTS,
    Table1,
    as_published,
    notes_of,
    two_digits,
)
from con360av_jax.pages.environment import page_environment
from con360av_jax.runtime.files import write_text

PAGES = {
    "evaluation of the baseline": f"{BASELINE}/metrics.html",
    "evaluation of Con360-AV": f"{CON360AV}/metrics.html",
    "the two side by side, clip by clip": "comparison.html",
    "samples of each viewpoint": f"{VIEWPOINTS}/study.html",
}


def write_table(table: Table1, folder: Path) -> Path:
    """Writes FOLDER/table1.html in one step."""
    page = folder / f"{TABLE}.html"
    html = (
        page_environment("con360av_jax.evaluate", as_published=as_published, two_digits=two_digits, **FILTERS)
        .get_template("table1_page.html")
        .render(
            table=table,
            titles=TITLES,
            heads=[_head(table, name) for name in table.columns],
            notes=notes_of(table),
            plots=_plots(table),
            sampled=table.results[CON360AV],
            pages=[(name, address) for name, file in PAGES.items() if (address := link(folder / file, page))],
        )
    )
    write_text(page, html)
    return page


def _head(table: Table1, column: str) -> Metric:
    return table.rows[BASELINE][column]


def _plots(table: Table1) -> Sequence[Markup]:
    """Plot of values and intervals for each column with two values or more."""
    plots = []
    for name in table.columns:
        named = [
            (TITLES[row], metric)
            for row, metrics in table.rows.items()
            if (metric := metrics.get(name)) is not None and metric.value is not None and row != VIEWPOINTS
        ]
        if len(named) > 1:
            plots.append(intervals(named))
    return plots
