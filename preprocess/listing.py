"""Rows, summary and leaks of `python -m preprocess list`."""

from pathlib import Path

from rich.table import Table

from con360av_jax.errors import MediaError, some
from con360av_jax.media.files import probe
from con360av_jax.runtime.files import readable
from preprocess.choices import Stereo
from preprocess.inputs import Found, Input, leak
from preprocess.stages.standardise import check_streams

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


def describe(given: Input, folder: Path, stereo: Stereo) -> dict[str, object]:
    """One row of the CSV in `folder`; what is unknown is empty, and `problem` says why the file cannot be used.

    Packets are not read: whether a file is cut off is found when it is processed.
    """
    path, beside = given.path.absolute(), folder.absolute()
    row: dict[str, object] = dict.fromkeys(COLUMNS, "")
    row |= {
        "file": readable(path.relative_to(beside) if path.is_relative_to(beside) else path),
        "clip": given.name,
        "source": given.source,
        "split": given.split,
    }
    try:
        info = probe(given.path)
        row |= {"seconds": round(info.duration, 3)}
        if info.has_video:
            row |= {name: getattr(info, name) for name in ("width", "height", "video_codec", "projection", "stereo")}
            row["frames_per_second"] = round(info.frames_per_second, 3)
        if info.has_audio:
            row |= {name: getattr(info, name) for name in ("channels", "layout", "sample_rate")}
            row["sound_codec"] = info.audio_codec
        check_streams(info, stereo)
    except MediaError as error:
        row["problem"] = str(error)
    return row


def summary(found: Found, problems: list[str], title: str) -> Table:
    """Clips, source videos and problems of each split, as a table."""
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
    shared = leak(found.inputs)
    lines = [
        f"{shared.clips} of {shared.held_out} clips held out come from videos that also have clips in train "
        f"({shared.sources} of {shared.held_out_sources} videos)"
    ]
    if found.absent:
        lines.append(f"{found.absent} clips of the published split are not among the files")
    if found.unlisted:
        lines.append(f"{found.unlisted} files are in neither list of the published split")
    return "\n".join([*lines, *without_file(found)])


def without_file(found: Found) -> list[str]:
    """One line that counts and names what lists name without a file; none if they name nothing of the kind."""
    names = found.absent_names
    return [f"{len(names)} names in lists have no file: {some(names)}"] if names else []
