"""Plots of metrics as SVG: scores by clip, and values with their intervals."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from con360av_jax.evaluate.metric_format import metric_interval, metric_value
from con360av_jax.evaluate.results import Metric
from con360av_jax.pages.plots import INKS, name_axes, page_figure, page_svg

BARS = 30
_LONGEST_NAME = 32


def histogram(metric: Metric, scores: Float[np.ndarray, "clip"]) -> Markup:
    """Histogram of a metric's scores by clip, with its value as a line and its interval as a band."""
    figure, (axis,) = page_figure(2.1)
    bars = min(BARS, max(1, 2 * round(len(scores) ** 0.5)))
    axis.hist(scores, bins=bars, color=INKS["video"], alpha=0.75, rwidth=0.92)
    if metric.low is not None and metric.high is not None:
        axis.axvspan(metric.low, metric.high, color=INKS["audio"], alpha=0.25, linewidth=0)
    if metric.value is not None:
        axis.axvline(metric.value, color=INKS["audio"], linewidth=1.6)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    counted = f"{len(scores):,} clip{'' if len(scores) == 1 else 's'}"
    name_axes(axis, metric.title, "clips", f"{metric.unit or 'score'} of one clip")
    return page_svg(figure, f"{metric.title} of {counted}: {metric_value(metric)}, 95 % {metric_interval(metric)}")


def scatter(
    metric: Metric, names: tuple[str, str], first: Float[np.ndarray, "clip"], second: Float[np.ndarray, "clip"]
) -> Markup:
    """Scatter plot of each clip's score in two named evaluations, with the diagonal where they are equal."""
    figure, (axis,) = page_figure(3.6)
    both = np.concatenate([first, second])
    low, high = float(both.min()), float(both.max())
    margin = 0.04 * (high - low) or 0.5
    ends = (low - margin, high + margin)
    axis.plot(ends, ends, color=INKS["muted"], linewidth=0.8, linestyle=(0, (4, 3)))
    axis.scatter(first, second, s=9, color=INKS["video"], alpha=0.6 if len(first) < 300 else 0.3, linewidths=0)
    axis.set_xlim(*ends)
    axis.set_ylim(*ends)
    axis.set_aspect("equal")
    axis.grid(axis="x", color=INKS["line"], linewidth=0.6)
    unit = f", {metric.unit}" if metric.unit else ""
    name_axes(axis, f"{metric.title}{unit}", shortened(names[1]), shortened(names[0]))
    return page_svg(figure, f"{metric.title} of {len(first):,} clips by {names[0]} and by {names[1]}")


def intervals(named: Sequence[tuple[str, Metric]]) -> Markup:
    """Plot of one metric's value and interval in each named evaluation, the first at the top."""
    metric = named[0][1]
    figure, (axis,) = page_figure(0.75 + 0.24 * len(named))
    for row, (_, found) in enumerate(named):
        if found.low is not None and found.high is not None:
            axis.plot((found.low, found.high), (row, row), color=INKS["video"], linewidth=2.2, alpha=0.55)
        if found.value is not None:
            axis.plot(found.value, row, color=INKS["video"], marker="o", markersize=4.5)
    axis.set_ylim(len(named) - 0.5, -0.5)
    axis.set_yticks(range(len(named)), [shortened(name) for name, _ in named])
    for label in axis.get_yticklabels():
        label.set_parse_math(False)
    axis.grid(axis="x", color=INKS["line"], linewidth=0.6)
    better = "lower is better" if metric.lower_is_better else "higher is better"
    name_axes(axis, metric.title, "", f"{metric.unit}, {better}" if metric.unit else better)
    told = "; ".join(f"{name} {metric_value(found)} ({metric_interval(found)})" for name, found in named)
    return page_svg(figure, f"{metric.title}: {told}")


def shortened(name: str) -> str:
    """A name that fits beside a plot; paths keep their end, which tells them apart."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
