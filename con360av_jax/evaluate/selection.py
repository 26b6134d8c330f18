"""Selection of the records to evaluate, names of their clips and seeds of their noise.

All depend only on the record's key and the evaluation's seed, not on the order of the shards. The clips of a smaller
evaluation are a subset of those of a larger one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from cattrs.errors import BaseValidationError

from con360av_jax.config.files import problems, structure, unstructure
from con360av_jax.data.schema import SampleEntry, recording_of
from con360av_jax.errors import ConfigError, DatasetError, MetricError
from con360av_jax.runtime.files import file_stem, write_lines
from con360av_jax.runtime.text_files import split_lines

CLIPS = "clips.jsonl"
SEEDS = 2**32

Noise: TypeAlias = Literal["clip", "scene"]
"""Scope of a noise seed: each clip has its own, or all viewpoints of one segment share it."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedClip:
    """One line of clips.jsonl: a record and the clip that is generated for it."""

    clip: str
    """Name of the clip's files, without suffix."""
    key: str
    caption: str
    """Caption that the clip is generated from; "" in an ablation without caption."""
    start: float
    """Start of the segment in its recording, s."""
    segment: int
    viewpoint_index: int
    seed: int
    viewpoint: tuple[tuple[float, float, float, float], ...]
    """Yaw, pitch, horizontal and vertical field of view of each frame, rad."""

    @property
    def middle(self) -> tuple[float, float, float, float]:
        """The viewpoint of the middle frame."""
        return self.viewpoint[len(self.viewpoint) // 2]


def choose(entries: Iterable[SampleEntry], count: int | None, seed: int) -> tuple[SampleEntry, ...]:
    """`count` records (None: all) in a pseudo-random order that depends on their keys and the seed.

    Raises ConfigError if there are fewer, DatasetError if there are none or if two clips would have the same file name.
    """
    ranked = sorted(entries, key=lambda entry: _digest(seed, entry.key))
    if not ranked:
        raise DatasetError("the dataset has no records: preprocess it again")
    if count is not None and not 1 <= count <= len(ranked):
        raise ConfigError(f"--count {count}, but there are {len(ranked)} records to choose from: give 1 to that many")
    chosen = tuple(ranked[:count])
    twice = [name for name, times in Counter(clip_name(entry.key) for entry in chosen).items() if times > 1]
    if twice:
        keys = " and ".join(entry.key for entry in chosen if clip_name(entry.key) == twice[0])
        raise DatasetError(f"records {keys} would both be called {twice[0]}: give their clips other names")
    return chosen


def complete_scenes(entries: Iterable[SampleEntry]) -> dict[int, tuple[SampleEntry, ...]]:
    """Records by viewpoint index, for the segments that have a record of every viewpoint in the dataset.

    Raises DatasetError if there are fewer than two viewpoints, or no segment has them all.
    """
    entries = tuple(entries)
    viewpoints = sorted({entry.viewpoint_index for entry in entries})
    if len(viewpoints) < 2:
        raise DatasetError("all records have one viewpoint index: preprocess with --viewpoints 2 or more to compare")
    views = Counter((entry.clip, entry.segment) for entry in entries)
    kept = [entry for entry in entries if views[entry.clip, entry.segment] == len(viewpoints)]
    if not kept:
        raise DatasetError(f"no segment is seen from all {len(viewpoints)} viewpoints of the dataset: preprocess again")
    return {number: tuple(entry for entry in kept if entry.viewpoint_index == number) for number in viewpoints}


def choose_scenes(
    views: dict[int, tuple[SampleEntry, ...]], count: int | None, seed: int
) -> dict[int, tuple[SampleEntry, ...]]:
    """`count` segments of `complete_scenes`, the same for each viewpoint; raises as `choose` does."""
    first, *_ = views.values()
    order = [one.key for one in choose([replace(entry, key=_scene(entry)) for entry in first], count, seed)]
    return {
        number: tuple(by_scene[scene] for scene in order)
        for number, entries in views.items()
        for by_scene in [{_scene(entry): entry for entry in entries}]
    }


def choose_records(
    entries: Iterable[SampleEntry], count: int | None, scenes: int | None, seed: int
) -> tuple[SampleEntry, ...]:
    """`count` records as `choose`, or all viewpoints of `scenes` segments as `choose_scenes`, segment by segment.

    Raises ConfigError if both are given, and as those do.
    """
    if scenes is None:
        return choose(entries, count, seed)
    if count is not None:
        raise ConfigError(f"--count {count} and --scenes {scenes}: give one of them")
    views = complete_scenes(entries)
    there = len(next(iter(views.values())))
    if not 1 <= scenes <= there:
        raise ConfigError(f"--scenes {scenes}, but {there} are seen from every viewpoint: give 1 to that many")
    views = choose_scenes(views, scenes, seed)
    return tuple(entry for segment in zip(*views.values(), strict=True) for entry in segment)


def clip_name(key: str) -> str:
    """File name of a record's clip, without suffix."""
    recording = recording_of(key)
    return f"{file_stem(recording.replace('/', '_'))}{key[len(recording) :].replace('/', '_')}"


def recording_of_clip(clip: str) -> str:
    """Recording of a clip from the clip's name, with "_" for "/" (`clip_name`): segments and viewpoints share it."""
    return clip.rsplit("_", 2)[0]


def clip_seed(entry: SampleEntry, seed: int, noise: Noise) -> int:
    """Seed of a clip's noise, in [0, 2^32)."""
    of = entry.key if noise == "clip" else _scene(entry)
    return int.from_bytes(_digest(seed, f"noise {of}")[:4], "big")


def write_clips(folder: Path, clips: Sequence[EvaluatedClip]) -> None:
    """Writes FOLDER/clips.jsonl in one step."""
    write_lines(folder / CLIPS, map(unstructure, clips))


def read_clips(folder: Path) -> tuple[EvaluatedClip, ...]:
    """Clips of FOLDER/clips.jsonl; raises MetricError if it is missing or corrupt."""
    path = folder / CLIPS
    try:
        lines = split_lines(path.read_text(encoding="utf-8"))
        return tuple(structure(json.loads(line), EvaluatedClip) for line in lines)
    except (OSError, ValueError) as error:
        raise MetricError(f"{path} cannot be read ({error}): delete it and evaluate again") from error
    except BaseValidationError as error:
        raise MetricError(f"{path} is corrupt: {problems(error)}; delete it and evaluate again") from error


def _scene(entry: SampleEntry) -> str:
    return f"{entry.clip}/{entry.segment}"


def _digest(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed} {text}".encode()).digest()
