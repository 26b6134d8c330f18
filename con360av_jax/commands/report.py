"""con360av report: one self-contained HTML page about a training run and clips sampled from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one HTML page about a training run: losses, clips beside their targets, throughput, settings."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a training run, finished or not."""
    out: Path | None = None
    """Page to write (.html). Left out: report.html in the run's folder."""
    clip: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Clip made by `con360av sample` (.mp4)."""
    dataset: Path | None = None
    """Dataset that the clips' maps came from; the page then shows panoramas and target views."""
    timings: Path | None = None
    """JSON file with a list of {name, command, seconds}, shown as a table."""

    def execute(self) -> None:
        """Writes the page."""
        from con360av_jax.report.build import write_report

        out = self.out or self.run / "report.html"
        write_report(self.run, out, clips=self.clip, dataset=self.dataset, timings=self.timings)
