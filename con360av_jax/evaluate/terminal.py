"""Terminal output of a finished evaluation, comparison or study."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from con360av_jax.evaluate.compare import Difference, NamedResults
from con360av_jax.evaluate.metric_format import DASH, beside, metric_interval, metric_value
from con360av_jax.evaluate.results import Metric, Results
from con360av_jax.evaluate.selection import recording_of_clip
from con360av_jax.evaluate.study import Studied
from con360av_jax.evaluate.table1 import BASELINE, CON360AV, TITLES, Table1, as_published, notes_of, two_digits
from con360av_jax.runtime.terminal import plain_console


def show_results(results: Results, folder: Path, page: Path) -> None:
    """Prints a table of all metrics with intervals and clip counts, then notes and exclusions."""
    more = [
        (head, attribute)
        for head, attribute in (("targets", "target"), ("paper", "paper"))
        if any(getattr(metric, attribute) is not None for metric in results.metrics)
    ]
    count = len({recording_of_clip(clip.clip) for clip in results.clips})
    recordings = f"{count} recording{'' if count == 1 else 's'}"
    title = f"{results.protocol['name']}: {len(results.clips)} clips of {recordings} in {folder}"
    heads = ("value", "95 %", "clips", *(head for head, _ in more))
    columns = [Column(head, justify="right") for head in heads]
    table = Table("metric", *columns, title=title, title_justify="left")
    for metric in results.metrics:
        cells = [metric_value(metric), metric_interval(metric), str(metric.clips)]
        cells += [*(beside(metric, getattr(metric, attribute)) for _, attribute in more)]
        table.add_row(_title(metric), *cells)
    console = plain_console()
    console.print(table)
    notes = [f"{metric.title}: {metric.note}" for metric in results.metrics if metric.note]
    # Below the table, because in it they would make the number columns narrow.
    for line in (*notes, *exclusion_lines(results)):
        _say(console, line)
    _warn(console, [results])
    _say(console, f"Open {page}")


def exclusion_lines(results: Results) -> list[str]:
    """One line per metric that excludes clips or frames, with the most frequent reason."""
    lines = []
    for metric in dict.fromkeys(exclusion.metric for exclusion in results.exclusions):
        mine = [exclusion for exclusion in results.exclusions if exclusion.metric == metric]
        frames = sum(exclusion.frame is not None for exclusion in mine)
        reason, times = Counter(exclusion.reason for exclusion in mine).most_common(1)[0]
        counted = " and ".join(
            f"{count} {word}{'' if count == 1 else 's'}"
            for count, word in ((len(mine) - frames, "clip"), (frames, "frame"))
            if count
        )
        lines.append(f"{metric} excludes {counted}: {reason}" + ("" if times == len(mine) else ", and others"))
    return lines


def show_comparison(named: Sequence[NamedResults], found: Sequence[Difference], page: Path) -> None:
    """Prints the metrics of all evaluations, then the differences from the first that have an interval."""
    console = plain_console()
    console.print(_side_by_side(named))
    for one in found:
        if one.low is not None and one.high is not None:
            verdict = f"{one.better} is better" if one.better else "undecided"
            verdict += f", for only one scores {one.left_out} more clips" if one.left_out else ""
            _say(
                console,
                f"{one.title}: {one.second} minus {one.first} {one.value:+.4g} "
                f"(95 % {one.low:+.4g} … {one.high:+.4g}, {one.clips} clips of {one.recordings} recordings): {verdict}",
            )
    _warn(console, [results for _, results in named])
    _say(console, f"Open {page}")


def show_study(study: str, found: Studied) -> None:
    """Prints the variants of a study side by side; for viewpoints also the distances between their samples."""
    if study != "viewpoints":
        show_comparison(found.named, found.differences, found.page)
        return
    console = plain_console()
    console.print(_side_by_side(found.named))
    between = [metric for _, results in found.named for metric in results.metrics if "_to_viewpoint_" in metric.name]
    for metric in (*between, *found.between_viewpoints):
        values = f"{metric_value(metric)}, 95 % {metric_interval(metric)}; targets {beside(metric, metric.target)}"
        _say(console, f"{metric.title}: {values}{f' ({metric.note})' if metric.note else ''}")
    _warn(console, [results for _, results in found.named])
    _say(console, f"Open {found.page}")


def warn_of(doubts: Sequence[str]) -> None:
    """Prints warnings on standard error, before anything is generated."""
    for doubt in doubts:
        _warning(plain_console(stderr=True), doubt)


def show_table1(table: Table1, page: Path) -> None:
    """Prints Table 1, ours beside the paper's, then ratios, notes and warnings."""
    console = plain_console()
    columns = [Column(_title(table.rows[BASELINE][name]), justify="right") for name in table.columns]
    title = f"Table 1 of Con360-AV, protocol {table.protocol}"
    shown = Table("", *columns, title=title, title_justify="left", show_lines=True)
    for row, metrics in table.rows.items():
        shown.add_row(TITLES[row], *(_cell(metrics.get(name)) for name in table.columns))
    ratios = [table.ratios[name] for name in table.columns]
    cells = [f"{two_digits(one.ours)}{_paper(two_digits(one.paper))}" for one in ratios]
    shown.add_row(f"{TITLES[CON360AV]} / {TITLES[BASELINE]}", *cells)
    console.print(shown)
    if table.without_paper:
        _say(console, f"{table.without_paper[0].upper()}{table.without_paper[1:]}.")
    for note in notes_of(table):
        _say(console, note)
    for warning in table.warnings:
        _warning(console, warning)
    _say(console, f"Open {page}")


def _cell(metric: Metric | None) -> str:
    """A value with its interval and the paper's value on lines of their own."""
    if metric is None:
        return DASH
    interval = "" if metric.low is None else f"\n{metric_interval(metric)}"
    return f"{metric_value(metric)}{interval}{_paper(as_published(metric.paper))}"


def _paper(value: str) -> str:
    return "" if value == DASH else f"\npaper {value}"


def _side_by_side(named: Sequence[NamedResults]) -> Table:
    table = Table("metric", *(Column(name, justify="right", overflow="fold") for name, _ in named))
    for metric in named[0][1].metrics:
        if all(results.metric(metric.name) for _, results in named):
            values = [results.metric(metric.name) for _, results in named]
            table.add_row(_title(metric), *(metric_value(one) if one else "" for one in values))
    return table


def _title(metric: Metric) -> Text:
    unit = f" [{metric.unit}]" if metric.unit else ""
    return Text(f"{metric.title}{unit} {'↓' if metric.lower_is_better else '↑'}")


def _warn(console: Console, found: Sequence[Results]) -> None:
    """Prints each warning of these evaluations once."""
    for warning in dict.fromkeys(results.warning for results in found if results.warning):
        _warning(console, warning)


def _warning(console: Console, warning: str) -> None:
    console.print(f"Warning: {warning}", style="bold red", highlight=False, soft_wrap=True, markup=False)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
