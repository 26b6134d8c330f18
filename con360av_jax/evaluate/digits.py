"""How many digits of a number a page shows: as many as its interval leaves meaning."""

import math

from con360av_jax.evaluate.results import Metric

DASH = "–"
_PLACES = 6
_ROUNDING = 1e-9
"""What is nearer to 0 is a sum's rounding."""


def number(value: float | None, spread: float = 0.0) -> str:
    """`value` with two digits of its `spread`, half an interval's width; without one, with four digits."""
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


def metric_value(metric: Metric, spread: float | None = None) -> str:
    """Its value, as precisely as its interval allows unless a spread is given."""
    return beside(metric, metric.value, spread)


def metric_interval(metric: Metric, spread: float | None = None) -> str:
    """From its low to its high end, or a dash."""
    if metric.low is None or metric.high is None:
        return DASH
    return f"{beside(metric, metric.low, spread)} to {beside(metric, metric.high, spread)}"


def beside(metric: Metric, value: float | None, spread: float | None = None) -> str:
    """Another number as precise as the metric's own."""
    return number(value, half_width(metric) if spread is None else spread)


def half_width(metric: Metric) -> float:
    """Of its interval; 0 without one."""
    return (metric.high - metric.low) / 2 if metric.low is not None and metric.high is not None else 0.0
