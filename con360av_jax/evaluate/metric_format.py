"""Metrics as text, with the precision that their interval justifies."""

import math

from con360av_jax.evaluate.compare import Difference
from con360av_jax.evaluate.results import Metric

DASH = "–"
_PLACES = 6
_ROUNDING = 1e-9
"""Values nearer to 0 are rounding errors of sums and are shown as 0."""


def number(value: float | None, spread: float = 0.0) -> str:
    """`value` to two digits of `spread` (half the width of its interval), or to four digits without one."""
    if value is None:
        return DASH
    if not math.isfinite(value):
        return str(value)
    value = 0.0 if abs(value) < _ROUNDING else value
    if 0 < abs(value) < 10.0**-_PLACES and not spread:
        return f"{value:.2g}".replace("-", "−")
    scale = spread or abs(value) or 1.0
    places = min(max((1 if spread else 3) - math.floor(math.log10(scale)), 0), _PLACES)
    return f"{value:,.{places}f}".replace("-", "−")


def metric_value(metric: Metric | Difference, spread: float | None = None) -> str:
    """Value of a metric with the precision of `spread`, by default of its own interval."""
    return beside(metric, metric.value, spread)


def metric_interval(metric: Metric | Difference, spread: float | None = None) -> str:
    """Interval of a metric as "low to high", or a dash without one."""
    if metric.low is None or metric.high is None:
        return DASH
    return f"{beside(metric, metric.low, spread)} to {beside(metric, metric.high, spread)}"


def beside(metric: Metric | Difference, value: float | None, spread: float | None = None) -> str:
    """Another value of the same metric with the same precision, such as that of the targets."""
    return number(value, half_width(metric) if spread is None else spread)


def half_width(metric: Metric | Difference) -> float:
    """Half the width of a metric's interval; 0 without one."""
    return (metric.high - metric.low) / 2 if metric.low is not None and metric.high is not None else 0.0


FILTERS = {"number": number, "value": metric_value, "interval": metric_interval, "beside": beside}
"""Filters of the templates that show metrics."""
