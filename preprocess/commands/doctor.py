"""python -m preprocess doctor: checks finished datasets and writes a page with findings and samples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check finished datasets, each by itself and against the others, and write a page with findings and samples.

    The exit code is 1 if there are errors; warnings do not change it.
    """

    datasets: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATASET ...")]
    """Dataset folders. Several, such as train and validation, are also searched for shared content."""
    html: Path | None = None
    """Page to write. Left out: <first dataset>.doctor.html beside its folder."""
    samples: int = 12
    """Number of samples of each dataset on the page, spread evenly."""
    json: Path | None = None
    """JSON file to write all findings to."""

    def execute(self) -> int:
        """Checks and writes the page; returns 1 if there are errors, else 0.

        Raises:
            ConfigError: no dataset is given, or a negative number of samples.
            DatasetError: a folder is missing, is no dataset, or is given twice.
        """
        import json

        from con360av_jax.config.settings import require
        from con360av_jax.runtime.files import write_text
        from con360av_jax.runtime.terminal import plain_console
        from preprocess.doctor.page import write_page
        from preprocess.doctor.terminal import examine_shown, summarise

        require(bool(self.datasets), "no dataset is given: name one or more dataset folders")
        require(self.samples >= 0, f"--samples is {self.samples}; give 0 or more")
        console = plain_console(stderr=True)
        examination = examine_shown(self.datasets, self.samples, console)
        first = self.datasets[0].resolve()
        # Beside the folder: what lies in a dataset is named by its manifest.
        page = write_page(examination, self.html or first.with_name(f"{first.name}.doctor.html"))
        if self.json is not None:
            write_text(self.json, json.dumps(examination.findings.to_json(), indent=2, ensure_ascii=False) + "\n")
        summarise(examination.findings, page, console)
        return 1 if examination.findings.count("error") else 0
