"""con360av report: one self-contained HTML page about a training run and the clips sampled from it."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one HTML page about a training run: losses, samples with sound beside targets, throughput, settings."""

    run: tyro.conf.Positional[Path]
    """Folder of a training run, finished or not."""
    out: Path | None = None
    """The page to write (.html). Left out: report.html in the run's folder."""
    clip: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A clip that `con360av sample` made (.mp4); repeat for more."""
    dataset: Path | None = None
    """Dataset folder that the clips' maps came from: shows panoramas and target views."""
    timings: Path | None = None
    """JSON list of {name, command, seconds} to show as a table."""

    def execute(self) -> None:
        """Writes the page."""
        from con360av_jax.report.build import write_report

        out = self.out or self.run / "report.html"
        write_report(self.run, out, clips=self.clip, dataset=self.dataset, timings=self.timings)
