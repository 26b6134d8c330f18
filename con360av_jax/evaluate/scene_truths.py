"""Truth of an evaluation's scenes, from a folder of `con360av synth` or written for a dataset of scenes."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from con360av_jax.data.schema import Manifest, SampleEntry, recording_of
from con360av_jax.errors import DatasetError, MetricError
from con360av_jax.evaluate.judge_metrics import require_truth
from con360av_jax.runtime.files import write_text
from con360av_jax.scenes.records import scene_of
from con360av_jax.scenes.timbres import object_sound
from con360av_jax.scenes.truth import scene_truth

FOLDER = "truth"
_RATES = 16.0, 16_000
"""Frames and audio samples per second of written truth."""


def check_truth(truth: Path | None, manifest: Manifest, entries: Sequence[SampleEntry]) -> None:
    """Raises MetricError unless the truth of every record is in `truth` or, without one, follows from the dataset."""
    if truth is not None:
        require_truth(truth, [entry.key for entry in entries])
        return
    try:
        for entry in entries:
            scene_of(manifest, entry)
    except DatasetError as error:
        raise MetricError(f"{error}, or give --truth the folder that con360av synth wrote") from error


def write_truth(folder: Path, manifest: Manifest, entries: Sequence[SampleEntry]) -> Path:
    """Writes the truth of the records of a dataset of scenes to `folder`/truth and returns that folder."""
    frames_per_second, sample_rate = _RATES
    for entry in entries:
        path = folder / FOLDER / f"{recording_of(entry.key)}.json"
        if path.is_file():
            continue
        scene, _ = scene_of(manifest, entry)
        times = np.arange(round(frames_per_second * scene.seconds)) / frames_per_second
        sources = [object_sound(item, scene.seconds, sample_rate) for item in scene.objects]
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps(scene_truth(scene, sources, times, sample_rate)))
    return folder / FOLDER
