"""Curves, waveforms and spectrograms as SVG, with the colours and the font of the page."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

# Placeholder colours for Matplotlib, replaced by the CSS variable of the same name, which differs in light and dark.
_NAMES = ("ink", "muted", "line", "audio", "video", "range-1", "range-2", "range-3", "range-4")
INKS = {name: f"#{bytes(3 * [number]).hex()}" for number, name in enumerate(_NAMES, start=1)}
WIDTH = 5.0
"""Width of a figure, inches; pages show it at half their text width."""
POINTS = 400
"""Most points of a curve; longer ones are averaged over neighbouring values."""
PEAK = 2.5
"""Values above this multiple of the highest running mean are cut off."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity over a run; NaN where it is unknown."""

    name: str
    colour: str
    """A key of INKS."""
    values: Float[np.ndarray, "line"]


def curves(title: str, unit: str, steps: Sequence[int], drawn: Sequence[Curve], ceiling: float | None = None) -> Markup:
    """Plot of curves over training steps, each faint and as its running mean over a twentieth of its known values.

    Values above PEAK times the highest mean are cut off, with a note. `ceiling` is the upper limit of the axis.
    """
    figure, (axis,) = page_figure(2.5)
    top, cut = 0.0, 0.0
    for curve in drawn:
        known = np.isfinite(curve.values)
        position, values = np.asarray(steps, np.float64)[known], curve.values[known]
        window = max(len(values) // 20, 1)
        style = {"color": INKS[curve.colour], "marker": "o" if len(values) == 1 else "", "markersize": 3.0}
        if window > 1:
            axis.plot(_means(position), _means(values), linewidth=0.8, alpha=0.3, **style)
        smooth = running_mean(values, window) if values.size else values
        axis.plot(_means(position), _means(smooth), linewidth=1.8, label=curve.name, **style)
        top, cut = max(top, smooth.max(initial=0.0)), max(cut, values.max(initial=0.0))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if cut <= PEAK * top:
        top, cut = cut, 0.0
    axis.set_ylim(0, min(1.08 * top or 1.0, math.inf if ceiling is None else ceiling))
    if cut:
        axis.text(
            1.0, 0.98, f"peaks up to {cut:.3g} are cut off", transform=axis.transAxes, ha="right", va="top",
            fontsize=7.5, color=INKS["muted"],
        )  # fmt: skip
    name_axes(axis, title, unit, "step")
    if len(drawn) > 1:
        # Above the axes, so that it hides no curve.
        axis.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(drawn), frameon=False, fontsize=7.5,
            labelcolor=INKS["muted"], handlelength=1.2, columnspacing=1.0, borderaxespad=0.1, handletextpad=0.4,
        )  # fmt: skip
    return page_svg(figure, f"{title} over training steps")


def running_mean(values: Float[np.ndarray, "line"], window: int) -> Float[np.ndarray, "line"]:
    """Mean of the `window` values around each value, of fewer at the ends."""
    first, count = (window - 1) // 2, len(values)
    total, number = (np.convolve(summed, np.ones(window))[first : first + count] for summed in (values, np.ones(count)))
    return total / number


def waveforms(audio: Mapping[str, Float[np.ndarray, "sample"]], sample_rate: int) -> Markup:
    """Plot of named waveforms (-1..1) over seconds, one below the other, with RMS levels in dB of full scale."""
    figure, axes = page_figure(1.15 * len(audio) + 0.2, len(audio))
    for axis, (name, wave) in zip(axes, audio.items(), strict=True):
        bins = np.array_split(wave, min(800, len(wave)))
        middle = (np.cumsum([len(part) for part in bins]) - len(bins[0]) / 2) / sample_rate
        low, high = (np.array([end(part) for part in bins]) for end in (np.min, np.max))
        axis.fill_between(middle, low, high, color=INKS["audio"], linewidth=0.4)
        level = 20 * np.log10(max(float(np.sqrt(np.mean(np.square(wave)))), 1e-6))
        peak = max(float(np.abs(wave).max(initial=0.0)), 1e-3)
        axis.set_ylim(-1.1 * peak, 1.1 * peak)
        name_axes(axis, f"{name} · {level:.0f} dBFS", "amplitude", "time (s)" if axis is axes[-1] else "")
    axes[-1].set_xlim(0, max(len(wave) for wave in audio.values()) / sample_rate)
    return page_svg(figure, f"Waveforms: {', '.join(audio)}")


def mels(spectrograms: Mapping[str, Float[np.ndarray, "time mel"]], frames_per_second: int) -> Markup:
    """Plot of named log-mel spectrograms over seconds, one below the other, on one colour scale."""
    figure, axes = page_figure(1.15 * len(spectrograms) + 0.2, len(spectrograms))
    low, high = np.percentile(np.concatenate([mel.ravel() for mel in spectrograms.values()]), (2.0, 99.8))
    loudness = Normalize(low, high)
    for axis, (name, mel) in zip(axes, spectrograms.items(), strict=True):
        extent = (0, len(mel) / frames_per_second, 0, mel.shape[1])
        axis.imshow(
            mel.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            norm=loudness,
            extent=extent,
            interpolation="none",
        )
        axis.grid(False)
        name_axes(axis, name, "mel band", "time (s)" if axis is axes[-1] else "")
    scale = figure.colorbar(ScalarMappable(loudness, "magma"), ax=axes, pad=0.02, aspect=25)
    scale.set_label("log magnitude", fontsize=7.5, color=INKS["muted"])
    scale.ax.tick_params(colors=INKS["muted"], labelsize=7.5, length=2)
    scale.outline.set_visible(False)
    return page_svg(figure, f"Mel spectrograms: {', '.join(spectrograms)}")


def _means(values: Float[np.ndarray, "line"]) -> Float[np.ndarray, "point"]:
    """Means of neighbouring `values`, at most POINTS of them."""
    if len(values) <= POINTS:
        return values
    return np.array([part.mean() for part in np.array_split(values, POINTS)])


def page_figure(height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Figure in the page's colours with `rows` axes that share their x axis; `height` in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(rows, 1, sharex=True)))
    for axis in axes:
        axis.set_facecolor("none")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(INKS["line"])
        axis.grid(axis="y", color=INKS["line"], linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(colors=INKS["muted"], labelsize=7.5, length=0)
        axis.locator_params(axis="y", nbins=5 if rows == 1 else 3)
    return figure, axes


def name_axes(axis: Axes, title: str, unit: str, below: str) -> None:
    """Sets title, y label and x label; dollar signs are literal, not math."""
    axis.set_title(title, fontsize=9, color=INKS["ink"], loc="left", fontweight="bold", parse_math=False)
    axis.set_ylabel(unit, fontsize=7.5, color=INKS["muted"], parse_math=False)
    axis.set_xlabel(below, fontsize=7.5, color=INKS["muted"], parse_math=False)


def page_svg(figure: Figure, about: str) -> Markup:
    """SVG element of a figure; `about` is its text alternative."""
    buffer = io.StringIO()
    # A fixed salt makes equal figures equal bytes; "none" keeps text as text, in the page's font.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": about}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue()
    # Comments contain the text of the figure unescaped.
    drawing = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", drawing[drawing.index("<svg") :], flags=re.DOTALL)
    for name, stand_in in INKS.items():
        drawing = drawing.replace(stand_in, f"var(--{name})")
    # Matplotlib escapes all text in the drawing.
    return Markup(f'<svg role="img" aria-label="{escape(about)}"{drawing[len("<svg") :]}')  # noqa: S704
