"""Progress bar of training: steps, clips/s, time left and loss."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from con360av_jax.config.settings import Config


class StepBar:
    """Progress bar on standard error, updated once per log interval."""

    def __init__(self, config: Config, done: int):
        self._progress = Progress(
            TextColumn("[bold]train[/] {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(config.name, total=config.train.steps, completed=done, speed="", loss="")

    def __enter__(self) -> "StepBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: int, line: Mapping[str, object]) -> None:
        """Moves the bar to `step` and shows speed and loss of a line of metrics."""
        self._progress.update(
            self._task,
            completed=step,
            speed=f"{line['clips_per_second']:.2f} clips/s",
            loss=f"loss {line['loss']:.4f}",
        )
