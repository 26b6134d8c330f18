"""python -m preprocess list: describes videos in a CSV file and checks whether the splits leak."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from preprocess.choices import SplitName, Stereo


@dataclass(frozen=True, kw_only=True)
class List:
    """Describe every 360° video in a CSV file, which can be edited and given to `run`."""

    videos: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VIDEOS ...")]
    """Files, folders that are searched for videos, or CSV files with a column "file"."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """CSV file to write; must not exist."""
    stereo: Stereo = "auto"
    """Layout of the two eyes in the video; auto uses the file's metadata, or else the aspect ratio."""
    split: SplitName = "all"
    """Part of the recordings to list: 85 % are train, 15 % validation."""
    split_seed: int = 0
    """Seed of the train/validation split."""
    split_list: Path | None = None
    """Text file of clip names, one per line, to list only these."""
    published_split: Path | None = None
    """Folder with train.txt and test.txt of Sphere360, which then define the split; validation means test."""
    max_clips: int | None = None
    """Largest number of recordings to list. Left out: all."""

    def execute(self) -> None:
        """Writes the CSV file and shows a summary; files with problems are no error.

        Raises:
            ConfigError: an option does not fit.
            MediaError: nothing is found, or a list cannot be read or written.
        """
        from rich.progress import Progress

        from con360av_jax.config.settings import require
        from con360av_jax.runtime.terminal import plain_console
        from preprocess.clip_table import write_rows
        from preprocess.inputs import search
        from preprocess.listing import COLUMNS, describe, leak_report, summary

        require(bool(self.videos), "no videos were given: name files, folders or CSV files")
        require(self.out.suffix.lower() == ".csv", f"--out is {self.out}; give a name that ends in .csv")
        require(not self.out.exists(), f"{self.out} exists; give another name or delete it")
        require(self.max_clips is None or self.max_clips > 0, f"--max-clips is {self.max_clips}; give 1 or more")
        found = search(self.videos, self.split, self.split_list, self.max_clips, self.split_seed, self.published_split)
        with Progress(console=plain_console(stderr=True)) as progress:
            inputs = progress.track(found.inputs, description="list")
            rows = [describe(given, self.out.parent, self.stereo) for given in inputs]
        write_rows(self.out, COLUMNS, rows)
        console = plain_console()
        console.print(summary(found, [str(row["problem"]) for row in rows], str(self.out)))
        console.print(leak_report(found), highlight=False)
