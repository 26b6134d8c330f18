"""How many digits of a number a page shows: as many as its interval leaves meaning."""

import math

from con360av_jax.evaluate.results import Metric

DASH = "–"
_PLACES = 6


def number(value: float | None, spread: float = 0.0) -> str:
    """`value` with two digits of its `spread`, half an interval's width; without one, with four digits."""
    if value is None:
        return DASH
    if not math.isfinite(value):
        return str(value)
    if 0 < abs(value) < 10.0**-_PLACES and not spread:
        return f"{value:.2g}".replace("-", "−")
    scale = spread or abs(value) or 1.0
    places = min(max((1 if spread else 3) - math.floor(math.log10(scale)), 0), _PLACES)
    return f"{value:,.{places}f}".replace("-", "−")


def metric_value(metric: Metric) -> str:
    """Its value as precisely as its interval allows."""
    return number(metric.value, _spread(metric))


def metric_interval(metric: Metric) -> str:
    """From its low to its high end, or a dash."""
    if metric.low is None or metric.high is None:
        return DASH
    return f"{number(metric.low, _spread(metric))} to {number(metric.high, _spread(metric))}"


def beside(metric: Metric, value: float | None) -> str:
    """Another number as precise as the metric's own."""
    return number(value, _spread(metric))


def _spread(metric: Metric) -> float:
    return (metric.high - metric.low) / 2 if metric.low is not None and metric.high is not None else 0.0
