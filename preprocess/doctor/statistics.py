"""Statistics of a dataset, counted record by record and shown on the page as histograms."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from preprocess.doctor.across import SegmentSeen
from preprocess.doctor.content import loudness

CELL = 10
"""Side of a cell of the map of directions, degrees."""
FOV_EDGES = tuple(range(0, 181, 10))
LEVEL_EDGES = tuple(range(-90, 1, 6))
WORD_EDGES = (*range(0, 80, 5), 10_000)


def _counts(edges: Sequence[int]) -> Int[np.ndarray, "bin"]:
    return np.zeros(len(edges) - 1, np.int64)


@dataclass
class Statistics:
    """Statistics of one dataset."""

    records: int = 0
    """Number of readable records."""
    segments: int = 0
    directions: Int[np.ndarray, "latitude longitude"] = field(
        default_factory=lambda: np.zeros((180 // CELL, 360 // CELL), np.int64)
    )
    """Number of viewpoints that look into each cell of the panorama in the middle of their segments."""
    fields_of_view: Int[np.ndarray, "bin"] = field(default_factory=lambda: _counts(FOV_EDGES))
    levels: Int[np.ndarray, "bin"] = field(default_factory=lambda: _counts(LEVEL_EDGES))
    words: Int[np.ndarray, "bin"] = field(default_factory=lambda: _counts(WORD_EDGES))

    def add_viewpoint(self, track: np.ndarray) -> None:
        """Counts the direction and field of view of one viewpoint."""
        yaw, pitch, width, _ = np.degrees(track[len(track) // 2].astype(np.float64))
        rows, columns = self.directions.shape
        row = int(np.clip((90 - pitch) // CELL, 0, rows - 1))
        self.directions[row, int((yaw + 180) // CELL) % columns] += 1
        _count(self.fields_of_view, FOV_EDGES, width)

    def add_segment(self, caption: str, audio: np.ndarray | None) -> None:
        """Counts the caption and loudness of a segment, which its viewpoints share."""
        self.segments += 1
        _count(self.words, WORD_EDGES, len(caption.split()))
        if audio is not None:
            _count(self.levels, LEVEL_EDGES, loudness(audio))


def _count(counts: Int[np.ndarray, "bin"], edges: Sequence[int], value: float) -> None:
    counts[int(np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(counts) - 1))] += 1


def distinct_hours(clips: Mapping[str, Mapping[int, SegmentSeen]], seconds: float) -> float:
    """Hours of video that the segments of all clips cover; parts that segments share count once."""
    total = 0.0
    for segments in clips.values():
        starts = sorted(segment.start for segment in segments.values())
        nexts = [*starts[1:], float("inf")]
        total += sum(min(seconds, after - start) for start, after in zip(starts, nexts, strict=True))
    return total / 3600


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Lines of a ledger that differ only in names and numbers."""

    stage: str
    example: str
    count: int


def grouped(ledger: Iterable[Mapping[str, object]]) -> list[Reason]:
    """Groups a ledger by stage and reason, the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for line in ledger:
        stage, reason = str(line.get("stage", "")), str(line.get("reason", "without a reason"))
        bare = reason.replace(str(line.get("file", "\0")), "…")
        group = stage, re.sub(r"\d+(\.\d+)?", "#", bare)
        counts[group] += 1
        examples.setdefault(group, bare)
    return [Reason(stage=group[0], example=examples[group], count=count) for group, count in counts.most_common()]
