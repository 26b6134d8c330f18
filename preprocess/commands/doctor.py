"""python -m preprocess doctor: checks finished datasets and makes a page to look at."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check finished datasets, each by itself and against each other, and write a page to look at."""

    datasets: tyro.conf.Positional[tuple[Path, ...]]
    """Dataset folders; several, such as train and validation, are also searched for what they share."""
    html: Path | None = None
    """The page to write. Left out: <first dataset>.doctor.html beside its folder."""
    samples: int = 12
    """How many samples of each dataset the page shows, spread evenly."""
    json: Path | None = None
    """Also write all findings here, for a program to read."""

    def execute(self) -> int:
        """Checks and writes; returns the exit code: 0, or 1 if errors were found, whatever the warnings.

        Raises:
            ConfigError: no dataset is given, or a negative number of samples.
            DatasetError: a folder is missing, is no dataset, or is given twice.
        """
        import json

        from rich.console import Console

        from con360av_jax.config.settings import require
        from con360av_jax.runtime.files import write_text
        from preprocess.doctor.page import write_page
        from preprocess.doctor.terminal import examine_shown, summarise

        require(bool(self.datasets), "no dataset is given: name one or more dataset folders")
        require(self.samples >= 0, f"--samples is {self.samples}; give 0 or more")
        console = Console(stderr=True)
        examination = examine_shown(self.datasets, self.samples, console)
        first = self.datasets[0].resolve()
        # Beside the folder: what lies in a dataset is named by its manifest.
        page = write_page(examination, self.html or first.with_name(f"{first.name}.doctor.html"))
        if self.json is not None:
            write_text(self.json, json.dumps(examination.findings.to_json(), indent=2, ensure_ascii=False) + "\n")
        summarise(examination.findings, page, console)
        return 1 if examination.findings.count("error") else 0
