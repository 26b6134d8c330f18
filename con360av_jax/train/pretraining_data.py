"""Data of pretraining: random excerpts of a dataset's records, or of procedural scenes rendered when they are needed.

A dataset needs raw fields (`python -m preprocess run --keep-raw`). Scenes of version 2 need no files; training and
held-out scenes differ for any seed (scenes/version_2.py). Where an objective reads text, a record has one caption, a
view of a scene two, of the whole scene and of the view, of which one is drawn for every example.
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
from con360av_jax.data.schema import Sample, check_matches
from con360av_jax.data.source import Dataset, open_dataset
from con360av_jax.data.transforms import CaptionTokens, Tokenise
from con360av_jax.errors import DatasetError
from con360av_jax.scenes.sources import SceneAudio, SceneSource, SceneStills, SceneVideos
from con360av_jax.scenes.version_2 import SceneSplit
from con360av_jax.train.objectives.objective import Objective, Rendered
from con360av_jax.train.run_datasets import DATASET, RunDataset

Corrupt = Callable[[], Mapping[int, str]]
SCENES_VERSION = 2


def no_tokens(caption: str) -> dict[str, CaptionTokens]:
    """Tokens for objectives that read no text."""
    return {}


def text_of(objective: Objective, tokenise: Tokenise) -> Callable[[str], dict[str, Any]]:
    """Returns a function from a caption to its part of an example (`Objective.text`)."""
    modality = objective.text
    if modality is None:
        return lambda caption: {}
    null = tokenise("")[modality]

    def text(caption: str) -> dict[str, Any]:
        return {**tokenise(caption)[modality], "null_ids": null["ids"], "null_mask": null["mask"]}

    return text


class TrainingData(Protocol):
    """Source of training examples and of held-out ones."""

    def describe(self) -> dict[str, object]:
        """Returns the description of the training data that run.json keeps; equal data have equal ones."""
        ...

    def rows(self, objective: Objective, config: Config, tokenise: Tokenise = no_tokens) -> tuple[Rows, Corrupt]:
        """Returns a loader's rows and its corrupt records; raises DatasetError if data and objective do not fit.

        `tokenise` is called for captions if the objective reads text.
        """
        ...

    def held_out(self, objective: Objective, config: Config, tokenise: Tokenise = no_tokens) -> tuple[Rows, int]:
        """Returns held-out rows and their number, 0 for none; raises DatasetError if they do not fit."""
        ...


@dataclass(frozen=True)
class RecordData:
    """Records of a dataset with raw fields, and of another one that is held out."""

    folder: Path
    validation: Path | None = None

    def describe(self) -> dict[str, object]:
        """See `TrainingData`."""
        return RunDataset.of(self.folder).entry(DATASET)

    def rows(self, objective: Objective, config: Config, tokenise: Tokenise = no_tokens) -> tuple[Rows, Corrupt]:
        """See `TrainingData`."""
        # Hashes would refuse a dataset whose corrupt records are to be skipped.
        records = open_dataset(self.folder, verify="sizes" if config.train.on_corrupt == "skip" else "hashes")
        _require_fields(records, objective)
        text = text_of(objective, tokenise)

        def example(sample: Sample, random: np.random.Generator) -> dict[str, np.ndarray]:
            return {**objective.example(sample.arrays, random), **text(sample.caption)}

        row, read = excerpt_rows(records, config, example, config.train.seed)
        return row, lambda: read.corrupt

    def held_out(self, objective: Objective, config: Config, tokenise: Tokenise = no_tokens) -> tuple[Rows, int]:
        """See `TrainingData`."""
        if self.validation is None:
            return lambda number: {}, 0
        records = open_dataset(self.validation)
        _require_fields(records, objective)
        check_matches(records.manifest, config)

        text = text_of(objective, tokenise)

        def row(number: int) -> dict[str, Any]:
            sample, random = records[number % len(records)], np.random.default_rng((0, number))
            return _numbered(objective.whole(sample.arrays, random) | text(sample.caption), number)

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

    def rows(self, objective: Objective, config: Config, tokenise: Tokenise = no_tokens) -> tuple[Rows, Corrupt]:
        """See `TrainingData`."""
        batch = config.train.batch_size
        scenes = lru_cache(maxsize=4 * batch)(self._source(objective, config, "train").__getitem__)
        uses, text = objective.examples_per_scene, text_of(objective, tokenise)
        share = config.pretrain.scene_captions

        def row(number: int) -> dict[str, Any]:
            random = np.random.default_rng((config.train.seed, number))
            # The scenes of a batch come again in the batches after it, and differ from each other.
            scene = scenes(number // (uses * batch) * batch + number % batch)
            return _numbered(objective.example(scene, random) | text(_caption(scene, share, random)), number)

        return row, dict

    def held_out(self, objective: Objective, config: Config, tokenise: Tokenise = no_tokens) -> tuple[Rows, int]:
        """See `TrainingData`."""
        scenes, text = self._source(objective, config, "validation"), text_of(objective, tokenise)
        share = config.pretrain.scene_captions

        def row(number: int) -> dict[str, Any]:
            scene, random = scenes[number], np.random.default_rng((0, number))
            return _numbered(objective.whole(scene, random) | text(_caption(scene, share, random)), number)

        return row, config.pretrain.validation_batches * config.train.batch_size

    def _source(self, objective: Objective, config: Config, split: SceneSplit) -> SceneSource[Any]:
        clip, seconds = config.clip, float(config.clip.seconds)
        sources: dict[Rendered, Callable[[], SceneSource[Any]]] = {
            "stills": lambda: SceneStills(self.seed, clip.height, clip.width, seconds, split),
            "videos": lambda: SceneVideos(clip, self.seed, split),
            "audio": lambda: SceneAudio(config.mel, self.seed, seconds, split),
        }
        return sources[objective.scenes]()


def recorded_data(description: Mapping[str, Any]) -> TrainingData:
    """Returns the data of a run from the description in its run.json."""
    if "scenes" in description:
        return SceneData(description["scenes"])
    return RecordData(Path(description["dataset"]))


def _caption(scene: Mapping[str, Any], share: float, random: np.random.Generator) -> str:
    """The caption of the whole scene with probability `share`, or of the view, if the sample is one."""
    of_scene = "view_caption" not in scene or random.uniform() < share
    return scene["scene_caption" if of_scene else "view_caption"]


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
