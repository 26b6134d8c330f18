"""Data of pretraining: random excerpts of a dataset's records, or of procedural scenes rendered when they are needed.

A dataset needs raw fields (`python -m preprocess run --keep-raw`). Scenes of version 2 need no files; training and
held-out scenes differ for any seed (scenes/version_2.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from con360av_jax.config.pretraining import JUDGES
from con360av_jax.config.settings import Config
from con360av_jax.data.loader import Rows, excerpt_rows
from con360av_jax.data.schema import check_matches
from con360av_jax.data.source import Dataset, open_dataset
from con360av_jax.errors import DatasetError
from con360av_jax.scenes.sources import SceneAudio, SceneSource, SceneStills
from con360av_jax.scenes.version_2 import SceneSplit
from con360av_jax.train.objectives.objective import Objective
from con360av_jax.train.run_folder import dataset_hash

Corrupt = Callable[[], Mapping[int, str]]
SCENES_VERSION = 2


class TrainingData(Protocol):
    """Source of training examples and of held-out ones."""

    def describe(self) -> dict[str, object]:
        """Returns the description of the training data that run.json keeps; equal data have equal ones."""
        ...

    def rows(self, objective: Objective, config: Config) -> tuple[Rows, Corrupt]:
        """Returns a loader's rows and its corrupt records; raises DatasetError if data and objective do not fit."""
        ...

    def held_out(self, objective: Objective, config: Config) -> tuple[Rows, int]:
        """Returns held-out rows and their number, 0 for none; raises DatasetError if they do not fit."""
        ...


@dataclass(frozen=True)
class RecordData:
    """Records of a dataset with raw fields, and of another one that is held out."""

    folder: Path
    validation: Path | None = None

    def describe(self) -> dict[str, object]:
        """See `TrainingData`."""
        return {"dataset": str(self.folder.resolve()), "sha256": dataset_hash(self.folder)}

    def rows(self, objective: Objective, config: Config) -> tuple[Rows, Corrupt]:
        """See `TrainingData`."""
        # Hashes would refuse a dataset whose corrupt records are to be skipped.
        records = open_dataset(self.folder, verify="sizes" if config.train.on_corrupt == "skip" else "hashes")
        _require_fields(records, objective)
        row, read = excerpt_rows(
            records, config, lambda sample, random: objective.example(sample.arrays, random), config.train.seed
        )
        return row, lambda: read.corrupt

    def held_out(self, objective: Objective, config: Config) -> tuple[Rows, int]:
        """See `TrainingData`."""
        if self.validation is None:
            return lambda number: {}, 0
        records = open_dataset(self.validation)
        _require_fields(records, objective)
        check_matches(records.manifest, config)

        def row(number: int) -> dict[str, Any]:
            arrays = records[number % len(records)].arrays
            return _numbered(objective.whole(arrays, np.random.default_rng((0, number))), number)

        return row, len(records)


@dataclass(frozen=True)
class SceneData:
    """Procedural scenes of one seed; raises DatasetError if it is negative."""

    seed: int

    def __post_init__(self):
        if self.seed < 0:
            raise DatasetError(f"the seed of the scenes is {self.seed}: give 0 or more")

    def describe(self) -> dict[str, object]:
        """See `TrainingData`."""
        return {"scenes": self.seed, "version": SCENES_VERSION}

    def rows(self, objective: Objective, config: Config) -> tuple[Rows, Corrupt]:
        """See `TrainingData`."""
        batch = config.train.batch_size
        scenes = lru_cache(maxsize=4 * batch)(self._source(objective, config, "train").__getitem__)
        uses = objective.examples_per_scene

        def row(number: int) -> dict[str, Any]:
            random = np.random.default_rng((config.train.seed, number))
            # The scenes of a batch come again in the batches after it, and differ from each other.
            scene = number // (uses * batch) * batch + number % batch
            return _numbered(objective.example(scenes(scene), random), number)

        return row, dict

    def held_out(self, objective: Objective, config: Config) -> tuple[Rows, int]:
        """See `TrainingData`."""
        scenes = self._source(objective, config, "validation")
        count = config.pretrain.validation_batches * config.train.batch_size
        return lambda n: _numbered(objective.whole(scenes[n], np.random.default_rng((0, n))), n), count

    def _source(self, objective: Objective, config: Config, split: SceneSplit) -> SceneSource[Any]:
        clip, seconds = config.clip, float(config.clip.seconds)
        if "video" in objective.fields:
            return SceneStills(self.seed, clip.height, clip.width, seconds, split)
        return SceneAudio(config.mel, self.seed, seconds, split)


def recorded_data(description: Mapping[str, Any]) -> TrainingData:
    """Returns the data of a run from the description in its run.json."""
    if "scenes" in description:
        return SceneData(description["scenes"])
    return RecordData(Path(description["dataset"]))


def _numbered(example: dict[str, np.ndarray], number: int) -> dict[str, Any]:
    return {**example, "sample_id": np.asarray(number, np.int64)}


def _require_fields(dataset: Dataset, objective: Objective) -> None:
    """Raises DatasetError unless the dataset has all fields of the objective."""
    missing = [name for name in objective.fields if name not in dataset.manifest.fields]
    if missing:
        truth = objective.part in JUDGES
        raise DatasetError(
            f"dataset {dataset.folder} cannot pretrain {objective.part}: it lacks {', '.join(missing)}"
            f"{', which scenes have: give --scenes SEED' if truth else '; preprocess with --keep-raw'}"
        )
