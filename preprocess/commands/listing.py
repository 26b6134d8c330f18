"""python -m preprocess list: what every file is, in which split it belongs, and whether the splits leak."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from preprocess.inputs import Found, Input, SplitName
from preprocess.stages.standardise import Stereo

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    "file",
    "clip",
    "source",
    "split",
    "seconds",
    "width",
    "height",
    "frames_per_second",
    "video_codec",
    "projection",
    "stereo",
    "channels",
    "layout",
    "sample_rate",
    "sound_codec",
    "problem",
)


@dataclass(frozen=True, kw_only=True)
class List:
    """Look into every 360° video and write a CSV of what is there; it can be edited and given to the verb run."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """Files, folders that are searched for videos, or CSV files with a column "file"."""
    output: Annotated[Path, tyro.conf.arg(aliases=("--out",), metavar="CSV")]
    """The CSV file to write; must not exist."""
    stereo: Stereo = "auto"
    """How two eyes share the picture; auto believes the file's metadata, or else judges by its aspect."""
    split: SplitName = "all"
    """The part to list."""
    split_seed: int = 0
    """Of the division of source videos into 85 % train and 15 % validation."""
    split_list: Path | None = None
    """Text file of clip names, one per line: only these are listed."""
    published_split: Path | None = None
    """Folder with Sphere360's train.txt and test.txt; "validation" then means "test"."""
    max_clips: int | None = None
    """List at most this many videos."""

    def execute(self) -> int:
        """Writes the CSV, shows a summary and returns the exit code 0, also when files have problems.

        Raises:
            ConfigError: an option does not fit.
            MediaError: nothing is found, or a list cannot be read or written.
        """
        from rich.console import Console
        from rich.progress import Progress

        from con360av_jax.config.settings import require
        from preprocess.clip_table import write_rows
        from preprocess.inputs import search

        require(bool(self.videos), "no videos were given: name files, folders or CSV files")
        require(self.output.suffix.lower() == ".csv", f"--output is {self.output}; give a name that ends in .csv")
        require(not self.output.exists(), f"{self.output} exists; give another name or delete it")
        require(self.max_clips is None or self.max_clips > 0, f"--max-clips is {self.max_clips}; give 1 or more")
        found = search(self.videos, self.split, self.split_list, self.max_clips, self.split_seed, self.published_split)
        with Progress(console=Console(stderr=True)) as progress:
            inputs: Iterator[Input] = iter(progress.track(found.inputs, description="list"))
            rows = [describe(given, self.output.parent, self.stereo) for given in inputs]
        write_rows(self.output, COLUMNS, rows)
        console = Console()
        console.print(summary(found, [str(row["problem"]) for row in rows], str(self.output)))
        console.print(leak_report(found), highlight=False)
        return 0


def describe(given: Input, folder: Path, stereo: Stereo) -> dict[str, object]:
    """One row of the CSV in `folder`; what is unknown is empty, and `problem` says why the file cannot be used.

    Packets are not read: whether a file is cut off is found when it is processed.
    """
    from con360av_jax.errors import MediaError
    from con360av_jax.media.files import probe
    from preprocess.stages.standardise import check_streams

    path, beside = given.path.absolute(), folder.absolute()
    row: dict[str, object] = dict.fromkeys(COLUMNS, "")
    row |= {
        "file": str(path.relative_to(beside) if path.is_relative_to(beside) else path),
        "clip": given.name,
        "source": given.source,
        "split": given.split,
    }
    try:
        info = probe(given.path)
        row |= {"seconds": round(info.duration, 3)}
        if info.has_video:
            row |= {
                "width": info.width,
                "height": info.height,
                "frames_per_second": round(info.frames_per_second, 3),
                "video_codec": info.video_codec,
                "projection": info.projection,
                "stereo": info.stereo,
            }
        if info.has_sound:
            row |= {
                "channels": info.channels,
                "layout": info.layout,
                "sample_rate": info.sample_rate,
                "sound_codec": info.sound_codec,
            }
        check_streams(info, stereo)
    except MediaError as error:
        row["problem"] = str(error)
    return row


def summary(found: Found, problems: list[str], title: str) -> "Table":
    """Clips, source videos and problems of each split, as a table."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in ("split", "clips", "source videos", "with problems"):
        table.add_column(column, justify="left" if column == "split" else "right", overflow="fold")
    splits = [name for name in ("train", "validation", "test", "") if any(x.split == name for x in found.inputs)]
    for name in (*splits, None):
        chosen = [
            (given, problem)
            for given, problem in zip(found.inputs, problems, strict=True)
            if name is None or given.split == name
        ]
        table.add_row(
            "all" if name is None else name or "none",
            str(len(chosen)),
            str(len({given.source for given, _ in chosen})),
            str(sum(bool(problem) for _, problem in chosen)),
            style="bold" if name is None else "",
        )
    return table


def leak_report(found: Found) -> str:
    """One line per finding: what the splits share, and where a published split and the files differ."""
    from preprocess.inputs import leak

    shared = leak(found.inputs)
    lines = [
        f"{shared.clips} of {shared.held_out} clips held out come from videos that also have clips in train "
        f"({shared.sources} of {shared.held_out_sources} videos)"
    ]
    if found.absent:
        lines.append(f"{found.absent} clips of the published split are not among the files")
    if found.unlisted:
        lines.append(f"{found.unlisted} files are in neither list of the published split")
    return "\n".join(lines)
