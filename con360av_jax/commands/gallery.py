"""con360av gallery: the first and the worst clips of an evaluation as one page, or the first ones as a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from con360av_jax.errors import ConfigError

PICTURES = (".jpg", ".png")


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Show clips of an evaluation beside their targets: one self-contained HTML page, or one picture.

    Clips are chosen by rule: the first ones in the evaluation's order, which depends on their names and its seed, and
    the worst ones.
    """

    evaluation: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="EVALUATION")]
    """Folder of a finished evaluation."""
    out: Path | None = None
    """Page (.html) or picture (.jpg, .png) to write. Left out: gallery.html in the evaluation's folder."""
    count: int = 16
    """Number of clips from the first one on."""
    worst: int = 0
    """Number of the worst clips to show below."""
    note: str = ""
    """Sentence about the clips, without its full stop, to show on top of the page."""
    timings: Path | None = None
    """JSON file with a list of {name, command, seconds}, shown as a table on the page."""

    def execute(self) -> None:
        """Writes the page or the picture."""
        from rich.console import Console

        from con360av_jax.evaluate.gallery import write_gallery
        from con360av_jax.evaluate.picture import write_picture

        out = self.out or self.evaluation / "gallery.html"
        if out.suffix not in (".html", *PICTURES):
            raise ConfigError(f"--out {out}: give a name that ends in .html, .jpg or .png")
        if self.count < 1 or self.worst < 0:
            raise ConfigError(f"--count {self.count} --worst {self.worst}: give 1 clip or more, and 0 or more worst")
        if self.timings is not None and not self.timings.is_file():
            raise ConfigError(f"--timings {self.timings}: no such file")
        if out.suffix in PICTURES:
            if self.worst or self.note or self.timings:
                raise ConfigError("--worst, --note and --timings are for pages: leave them out or give --out PAGE.html")
            write_picture(self.evaluation, out, self.count)
        else:
            write_gallery(self.evaluation, out, self.count, self.worst, note=self.note, timings=self.timings)
        Console().print(f"Open {out}", highlight=False, soft_wrap=True)
