"""The datasets of a run, as its run.json records them, and whether a resumed run has the same.

The name "dataset" in `--allow` stands for the records, which no setting describes: with it a resumed run goes on with
another dataset, such as one that has grown, and run.json keeps the earlier ones under "earlier".
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from con360av_jax.data.schema import Manifest
from con360av_jax.data.source import MANIFEST
from con360av_jax.errors import CheckpointError, DatasetError
from con360av_jax.runtime.provenance import file_sha256

DATASET = "dataset"
EARLIER = "earlier"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunDataset:
    """Folder and contents of a dataset at the time of a run."""

    path: Path
    sha256: str
    """SHA-256 of manifest.json."""
    samples: int | None
    """Number of samples; None in runs of versions that did not record it."""

    @classmethod
    def of(cls, folder: Path) -> "RunDataset":
        """The dataset in a folder now; raises DatasetError if it has no intact manifest."""
        path = folder / MANIFEST
        samples = Manifest.from_json(path.read_bytes(), str(path)).samples if path.is_file() else None
        return cls(path=folder, sha256=dataset_hash(folder), samples=samples)

    @classmethod
    def recorded(cls, entry: Mapping[str, Any], path: str = "path") -> "RunDataset":
        """The dataset of an entry in run.json, whose folder stands under `path`."""
        return cls(path=Path(entry[path]), sha256=entry["sha256"], samples=entry.get("samples"))

    def entry(self, path: str = "path") -> dict[str, object]:
        """The entry in run.json."""
        samples = {} if self.samples is None else {"samples": self.samples}
        return {path: str(self.path.resolve()), "sha256": self.sha256, **samples}


def dataset_hash(dataset: Path) -> str:
    """Returns the SHA-256 of manifest.json of a dataset; raises DatasetError if it is missing."""
    path = dataset / MANIFEST
    if not path.is_file():
        raise DatasetError(f"{dataset} is not a dataset: it has no manifest.json")
    return file_sha256(path)


def dataset_entry(now: RunDataset, earlier: Iterable[RunDataset], path: str = "path") -> dict[str, Any]:
    """The entry of a dataset in run.json or a report, with those that the run was trained on before."""
    kept = [one.entry() for one in earlier]
    return {**now.entry(path), **({EARLIER: kept} if kept else {})}


def with_earlier(data: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Description of the data of a pretraining run, with the datasets that it had `before` ({} for a new run)."""
    if DATASET not in before:
        return dict(data)
    old, now = (RunDataset.recorded(one, DATASET) for one in (before, data))
    return dataset_entry(now, earlier_datasets(old, recorded_earlier(before), now), DATASET)


def recorded_earlier(entry: Mapping[str, Any]) -> tuple[RunDataset, ...]:
    """The datasets that an entry in run.json says the run was trained on before."""
    return tuple(map(RunDataset.recorded, entry.get(EARLIER, [])))


def earlier_datasets(old: RunDataset, earlier: Iterable[RunDataset], now: RunDataset) -> list[RunDataset]:
    """The datasets before `now` of a run whose last was `old`, after the `earlier` ones."""
    return [*earlier, *([] if old.sha256 == now.sha256 else [old])]


def require_same_dataset(run: Path, before: RunDataset, given: RunDataset, allowed: Collection[str]) -> None:
    """Raises CheckpointError unless the run's dataset is the given one, or `allowed` has "dataset", which is logged."""
    if given.sha256 == before.sha256:
        return
    found = f"{difference(run, before, given)} ({change(before, given)})"
    if DATASET not in allowed:
        raise CheckpointError(
            f"{found}: add --allow {DATASET} to go on with it as it is now, its samples in a new order, or start a "
            "new run"
        )
    if jax.process_index() == 0:
        logger.warning(f"{found}: the run goes on with it")


def difference(run: Path, before: RunDataset, given: RunDataset) -> str:
    """Sentence that says that the given dataset is another than the one before."""
    if given.path.resolve() == before.path.resolve():
        return f"dataset {given.path} has changed since {run} was trained on it"
    return f"{given.path} is not the dataset that {run} was trained on, {before.path}"


def change(before: RunDataset, given: RunDataset) -> str:
    """Difference in the number of samples, in words."""
    if before.samples is None:
        return f"{given.samples} samples now; the run did not record how many it had"
    if before.samples == given.samples:
        return f"other contents, {given.samples} samples as before"
    return f"{before.samples} -> {given.samples} samples"


def require_same_data(run: Path, before: Mapping[str, Any], given: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Raises CheckpointError unless a pretraining run has the data of before (datasets: `require_same_dataset`)."""
    if DATASET in before and DATASET in given:
        require_same_dataset(run, RunDataset.recorded(before, DATASET), RunDataset.recorded(given, DATASET), allowed)
    elif dict(given) != dict(before):
        raise CheckpointError(
            f"{run} was trained on other data: {dict(before)}, not {dict(given)}; give those, or start a new run"
        )


def require_same_validation(run: Path, before: RunDataset, validation: Path | None) -> None:
    """Raises CheckpointError unless the held-out dataset is the one that the run was validated on before."""
    given = None if validation is None else RunDataset.of(validation)
    if given is not None and given.sha256 == before.sha256:
        return
    what = "no held-out dataset" if validation is None else f"--validation {validation}"
    changed = "" if given is None else f" ({change(before, given)})"
    raise CheckpointError(
        f"{what} is given, but {run} was validated on another: {before.path}{changed}; give that as it was, or start a "
        "new run, since the best checkpoint was chosen on it"
    )
