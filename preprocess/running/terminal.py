"""Progress bar and summary of `python -m preprocess run`."""

from collections import Counter
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from con360av_jax.config.settings import Config
from preprocess.inputs import Input
from preprocess.running.assemble import Made

# Number of rejections that the summary shows.
SHOWN = 20


class _Rate(ProgressColumn):
    """Recordings per minute, and the time left at that rate."""

    def render(self, task: Task) -> Text:
        """Empty until the first recording is done."""
        if not task.completed or not task.elapsed:
            return Text("")
        rate = task.completed / task.elapsed
        left = timedelta(seconds=round((task.total or 0) - task.completed) / rate)
        return Text(f"{60 * rate:.1f} clips/min, {timedelta(seconds=round(left.total_seconds()))} left")


class RecordingProgress(Progress):
    """Progress bar over recordings."""

    def __init__(self, console: Console):
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), _Rate())
        super().__init__(*columns, console=console)
        self._recordings = self.add_task("preprocess", total=None)

    def begin(self, recordings: int) -> None:
        """Sets the number of recordings to be done."""
        self.update(self._recordings, total=recordings)

    def done(self, given: Input) -> None:
        """Advances by one recording."""
        self.update(self._recordings, advance=1, description=given.name)


def summarise(console: Console, out: Path, made: Made, config: Config) -> None:
    """Shows the first rejections and the size of the dataset in `out`."""
    rejected, manifest = made.ledger.rejected, made.manifest
    if rejected:
        table = Table(title="left out", title_justify="left")
        for column in ("file", "segment", "stage", "reason"):
            table.add_column(column, overflow="fold")
        for line in rejected[:SHOWN]:
            table.add_row(Path(str(line["file"])).name, str(line.get("segment", "all")), str(line["stage"]),
                          str(line["reason"]))  # fmt: skip
        console.print(table)
        counts = Counter(str(line["stage"]) for line in rejected)
        by_stage = ", ".join(f"{stage} {count}" for stage, count in counts.most_common())
        console.print(f"{len(rejected)} left out ({by_stage}); all of them in {out / 'rejected.jsonl'}")
    segments, size = sum(made.ledger.segments.values()), decimal(sum(shard.bytes for shard in manifest.shards))
    console.print(
        f"{len(made.ledger.segments)} clips with {segments} segments taken, {made.passed_over} were there already"
    )
    console.print(
        f"{out}: {manifest.samples} samples of {manifest.clips} clips, {size}, config {config.name}",
        highlight=False,
    )
