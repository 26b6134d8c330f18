"""Datasets of procedural scenes: records rendered without recordings, and the scene of a record.

A record holds the arrays of a clip of `SceneClips` (scenes/sources.py) and the caption of its scene. Each scene is a
recording of one segment, with a viewpoint for each of its clips. The manifest's settings and the name of a recording
lead back to the scene, whose objects, directions and onsets evaluation needs.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from cattrs.errors import BaseValidationError

from con360av_jax.config.files import structure
from con360av_jax.config.settings import Config
from con360av_jax.data.encoding import Encoder, NoEncoder, record_fields
from con360av_jax.data.schema import (
    MAP_FIELDS,
    RAW_FIELDS,
    Manifest,
    Sample,
    SampleEntry,
    manifest_config,
    sample_key,
)
from con360av_jax.data.writer import SHARD_RECORDS, DatasetWriter
from con360av_jax.errors import DatasetError
from con360av_jax.runtime.processes import in_processes
from con360av_jax.scenes.scene import Scene
from con360av_jax.scenes.sources import CLIPS_PER_SCENE, SAMPLES, SceneClips, SceneVideos
from con360av_jax.scenes.version_2 import SPLIT_NUMBERS, SceneSplit, make_scene_2
from con360av_jax.scenes.views import Viewpoint

SCENES = "scenes"
"""Name of a `SceneSet` in a manifest's settings."""


@dataclass(frozen=True, kw_only=True)
class SceneSet:
    """The first records of the scenes of a seed; raises DatasetError if there are no such scenes."""

    records: int
    """Number of records."""
    seed: int = 0
    split: SceneSplit = "train"
    version: int = 2
    """Version of the scenes."""

    def __post_init__(self):
        if not (self.version == 2 and self.seed >= 0 and self.split in SPLIT_NUMBERS and 1 <= self.records <= SAMPLES):
            raise DatasetError(
                f"{self.records} records of seed {self.seed}, split {self.split!r}, version {self.version} cannot be "
                f"made: give 1 record or more, a seed from 0 on, one of {', '.join(SPLIT_NUMBERS)}, and version 2"
            )

    @property
    def scenes(self) -> int:
        """Number of scenes; the last one may have fewer records than the others."""
        return -(-self.records // CLIPS_PER_SCENE)

    def recording(self, index: int) -> str:
        """Name of scene `index`, which no scene of another seed, split or version has."""
        # No underscore before the number: "<video>_<start second>" is the name of a clip of a longer video.
        return f"scene-{self.version}-{self.split}-{self.seed}-{index:06d}"


def write_scene_records(
    out: str | Path,
    config: Config,
    scenes: SceneSet,
    encoder: Encoder | None = None,
    *,
    keep_raw: bool = False,
    base_sha256: str = "",
    workers: int = 1,
    shard_records: int = SHARD_RECORDS,
    progress: Callable[[int], None] = lambda records: None,
) -> Manifest:
    """Writes the dataset `out` of `scenes`, or goes on where a writer was stopped, and returns its manifest.

    The bytes depend neither on stops nor on the number of workers.

    Args:
        out: the dataset; new, partial or finished.
        config: size of the clips, mel, and shapes of encoded fields.
        scenes: records to write.
        encoder: makes encoded fields; None writes raw fields.
        keep_raw: whether to write raw fields beside encoded ones.
        base_sha256: hash of the base that the encoder belongs to, for the manifest.
        workers: number of processes that render; this process encodes.
        shard_records: records per shard.
        progress: called with the number of records that are done, at the start and after each scene.

    Raises:
        DatasetError: `out` is no dataset or was made with other settings, clips are too short for scenes, or
            `workers` is not positive.
    """
    if workers < 1:
        raise DatasetError(f"{workers} workers cannot render: give 1 or more")
    make_scene_2(scenes.seed, seconds=config.clip.seconds, split=scenes.split)  # raises before anything is written
    encoder = encoder or NoEncoder()
    fields = record_fields(encoder, keep_raw)
    settings = {SCENES: asdict(scenes), "encoded": bool(encoder.fields), "base_sha256": base_sha256}
    source = SceneClips(config.clip, config.mel, scenes.seed, scenes.split)
    with closing(DatasetWriter(out, config, fields, settings, shard_records)) as writer:
        finished = writer.finished
        todo = [index for index in range(scenes.scenes) if scenes.recording(index) not in finished]
        progress(min(scenes.records, CLIPS_PER_SCENE * (scenes.scenes - len(todo))))
        rendered = in_processes(partial(_rendered, source, scenes), todo, workers)
        for index, (caption, clips) in zip(todo, rendered, strict=True):
            name, mel = scenes.recording(index), clips[0]["mel"]
            for number, arrays in enumerate(clips):
                # One and the same mel for all clips of a scene: it is encoded once.
                arrays |= encoder(arrays["video"], mel, caption)
                writer.add(_sample(name, number, caption, {field: arrays[field] for field in fields}))
            writer.end_clip(name)
            progress(CLIPS_PER_SCENE * index + len(clips))
        return writer.finish()


def scene_of(manifest: Manifest, entry: SampleEntry) -> tuple[Scene, Viewpoint]:
    """Returns the scene of a record and the viewpoint, rad, which stands still.

    Raises DatasetError if the dataset or the record was not made by `write_scene_records`.
    """
    try:
        scenes = structure(manifest.settings.get(SCENES), SceneSet)
    except (BaseValidationError, TypeError) as error:
        raise DatasetError(
            f"dataset {manifest.name!r} does not say which scenes it was made of: make it with con360av synth-dataset"
        ) from error
    digits = entry.clip.rpartition("-")[2]
    index = int(digits) if digits.isdecimal() else -1
    if not 0 <= index < scenes.scenes or scenes.recording(index) != entry.clip:
        raise DatasetError(f"record {entry.key} of dataset {manifest.name!r} is not of one of its scenes")
    videos = SceneVideos(manifest_config(manifest).clip, scenes.seed, scenes.split)
    number = CLIPS_PER_SCENE * index + entry.viewpoint_index
    return videos.scene(number), videos.viewpoint(number)


def _rendered(source: SceneClips, scenes: SceneSet, index: int) -> tuple[str, list[dict[str, np.ndarray]]]:
    """Caption of scene `index`, and the raw arrays and maps of each of its clips."""
    first = CLIPS_PER_SCENE * index
    clips = [source[number] for number in range(first, min(first + CLIPS_PER_SCENE, scenes.records))]
    return clips[0]["scene_caption"], [{name: clip[name] for name in (*RAW_FIELDS, *MAP_FIELDS)} for clip in clips]


def _sample(recording: str, viewpoint_index: int, caption: str, arrays: dict[str, np.ndarray]) -> Sample:
    return Sample(
        key=sample_key(recording, 0, viewpoint_index),
        clip=recording,
        start=0.0,
        segment=0,
        viewpoint_index=viewpoint_index,
        caption=caption,
        arrays=arrays,
    )
