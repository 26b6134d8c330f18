"""Held-out records of a run: which of a dataset's are taken, and what is done with them every so many steps."""

import logging
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import jax
from jax.sharding import Mesh

from con360av_jax.base.pretrained import Pretrained
from con360av_jax.config.settings import Config, require
from con360av_jax.data.schema import SampleEntry, check_matches
from con360av_jax.data.source import Dataset, open_dataset
from con360av_jax.data.transforms import check_trainable, is_encoded, to_parts
from con360av_jax.models.functional import Params
from con360av_jax.train.encode import Encode, caption_tokens, open_encode
from con360av_jax.train.program import compile_validation
from con360av_jax.train.samples import SampleClips
from con360av_jax.train.state import TrainState
from con360av_jax.train.trackers import Tracker
from con360av_jax.train.validation import Validation

logger = logging.getLogger(__name__)


class HeldOut:
    """Validations and sample clips of one run, each every so many steps."""

    def __init__(self, config: Config, validation: Validation | None, samples: SampleClips | None):
        self._config, self._validation, self._samples = config.train, validation, samples

    def due(self, step: int) -> bool:
        """Whether there is something to do after this step."""
        return _falls_on(step, self._config.validate_every) or _falls_on(step, self._config.sample_every)

    def __call__(self, step: int, state: TrainState, trackers: Sequence[Tracker]) -> float | None:
        """Does what is due after this step; returns the held-out loss of the moving average if it validated."""
        if self._samples is not None and _falls_on(step, self._config.sample_every):
            self._samples(step, state)
        if self._validation is not None and _falls_on(step, self._config.validate_every):
            return self._validation(step, state, trackers)
        return None


def _falls_on(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def open_held_out(
    config: Config,
    folder: Path | None,
    training: Dataset,
    pretrained: Pretrained,
    mesh: Mesh,
    state: TrainState,
    frozen: Params,
    encode: Encode | None,
    run: Path,
) -> HeldOut | None:
    """Opens the held-out dataset in `folder` and compiles the validation; returns None, and says so, without one.

    `encode` is that of the training records if they have no latents. A warning counts recordings that are in both
    datasets.

    Raises:
        ConfigError: `folder` is given, but nothing is to be done with it.
        DatasetError: the dataset is missing, corrupt or of another config.
    """
    settings = config.train
    if folder is None:
        if settings.validate_every or settings.sample_every:
            _say(f"{run} has no held-out records: it is not validated (give --validation DATASET)")
        return None
    require(
        settings.validate_every > 0 or settings.sample_every > 0,
        f"--validation {folder} has no use: set train.validate_every or train.sample_every above 0",
    )
    dataset = open_dataset(folder)
    check_matches(dataset.manifest, config)
    check_trainable(dataset.manifest.fields, f"dataset {folder}")
    _warn_of_shared_recordings(dataset, training)
    positions = spread_over_recordings(dataset.samples, max(settings.validation_records, settings.sample_clips))
    validation = samples = None
    if settings.validate_every:
        encoded = is_encoded(dataset.manifest.fields)
        tokenise = None if encoded else caption_tokens(pretrained)
        examples = [to_parts(dataset[at], at, tokenise) for at in positions[: settings.validation_records]]
        if not encoded:
            encode = encode or open_encode(pretrained, mesh, settings.compute_dtype)
        program = compile_validation(config, mesh, state, frozen)
        validation = Validation(config, mesh, examples, program, None if encoded else encode, frozen, run)
    if settings.sample_every:
        records = [dataset[at] for at in positions[: settings.sample_clips]]
        samples = SampleClips(config, mesh, pretrained, records, folder, frozen, run)
    return HeldOut(config, validation, samples)


def spread_over_recordings(entries: Sequence[SampleEntry], count: int) -> list[int]:
    """Positions of at most `count` records: the first of each recording, then the second of each, and so on."""
    by_recording: dict[str, list[int]] = {}
    for position, entry in enumerate(entries):
        by_recording.setdefault(entry.clip, []).append(position)
    rounds = zip_longest(*by_recording.values())
    return [position for each in rounds for position in each if position is not None][:count]


def _warn_of_shared_recordings(dataset: Dataset, training: Dataset) -> None:
    shared = {entry.clip for entry in dataset.samples} & {entry.clip for entry in training.samples}
    if shared:
        _say(
            f"{len(shared)} recordings of {dataset.folder}, such as {min(shared)}, are in the training dataset as "
            "well: the held-out loss flatters"
        )


def _say(line: str) -> None:
    if jax.process_index() == 0:
        logger.warning(line)
