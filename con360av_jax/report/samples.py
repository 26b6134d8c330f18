"""Sample clips of a run for its report: one row per held-out record, one column per step."""

import json
from pathlib import Path
from typing import TypedDict

from con360av_jax.pages import figures
from con360av_jax.train.samples import SAMPLES

COLUMNS = 3
"""Most steps shown: the first, the middle and the last of them."""


class Row(TypedDict):
    """Clips of one record, by step."""

    caption: str
    seed: int
    clips: dict[int, str]
    """Data URI of the clip at each step that has one."""


class Grid(TypedDict):
    """Sample clips of a run."""

    steps: list[int]
    """Steps shown, ascending."""
    hidden: int
    """Number of steps that are not shown."""
    rows: list[Row]


def sample_grid(run: Path) -> Grid:
    """Reads RUN/samples; a run without samples gives an empty grid.

    A clip without its card was being written when the run was killed, and is left out.
    """
    folder = run / SAMPLES
    found = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []
    steps = sorted({found[number * (len(found) - 1) // (COLUMNS - 1)] for number in range(COLUMNS)}) if found else []
    rows: dict[str, Row] = {}
    for step in steps:
        for card_file in sorted((folder / str(step)).glob("*.json")):
            card, clip = json.loads(card_file.read_text(encoding="utf-8")), card_file.with_suffix(".mp4")
            row = rows.setdefault(card["maps_key"], Row(caption=card["caption"], seed=card["seed"], clips={}))
            row["clips"][step] = figures.data_uri(clip.read_bytes(), "video/mp4")
    ordered = sorted(rows.values(), key=lambda row: row["seed"])
    return Grid(steps=steps, hidden=len(found) - len(steps), rows=ordered)
