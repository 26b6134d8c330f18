"""The folder of a training run: its settings, frozen base and dataset, and whether a resumed run has the same.

RUN/config.json             settings; epochs are recorded as steps
RUN/run.json                paths and hashes of the frozen base and of the dataset
RUN/metrics.jsonl           one line per log interval (train/metrics.py)
RUN/nonfinite.jsonl         one line per step with a NaN or infinite loss or gradient (train/nonfinite.py)
RUN/damaged-PROCESS.jsonl   one line per corrupt record (train/corrupt_records.py)
RUN/checkpoints/STEP/       checkpoint (train/checkpoint.py)
"""

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax

from con360av_jax.base.pretrained import base_hash
from con360av_jax.config.files import changes, config_hash, leaves, load_run_config, save_config, to_dict
from con360av_jax.config.settings import Config
from con360av_jax.errors import CheckpointError, ConfigError, DatasetError, some
from con360av_jax.runtime.files import write_text
from con360av_jax.runtime.provenance import file_sha256

# Settings that may differ in a resumed run without another option.
FREE_SETTINGS = (
    "name", "mesh", "sampler", "train.steps", "train.epochs", "train.log_every", "train.checkpoint_every",
    "train.keep_checkpoints", "train.on_nan", "train.max_skips", "train.loader_threads", "train.on_corrupt",
    "train.max_corrupt_share", "train.tensorboard", "train.wandb_project",
)  # fmt: skip
# Settings that no option allows to differ in a resumed run: shapes in the checkpoint and in the dataset depend on them,
# or the order of samples, since the checkpoint stores a number of batches in an order drawn from the seed.
FIXED_SETTINGS = ("model", "clip", "mel", "train.trainable", "train.batch_size", "train.seed")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Contents of config.json and run.json of a run folder."""

    folder: Path
    config: Config
    base_places: tuple[Path, Path]
    """Recorded places of the frozen base: relative to the run, and absolute."""
    base_sha256: str
    """SHA-256 of report.json of the base."""
    dataset: Path
    dataset_sha256: str
    """SHA-256 of manifest.json of the dataset."""


def append_line(path: Path, line: Mapping[str, object]) -> None:
    """Appends a line to a JSON-lines file of a run; raises CheckpointError if it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror}): make room and resume; the checkpoints are still there"
        ) from error


def refuse_existing(folder: Path) -> None:
    """Raises CheckpointError if `folder` exists and is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} already exists: add --resume to continue it, or choose another folder")


def write_run(folder: Path, config: Config, base: Path, dataset: Path) -> None:
    """Writes config.json and then run.json of a new or resumed run, on process 0 only."""
    if jax.process_index() != 0:
        return
    description = {
        "config_hash": config_hash(config),
        "base": {
            "path": os.path.relpath(base.resolve(), folder.resolve()),
            "absolute_path": str(base.resolve()),
            "sha256": base_hash(base),
        },
        "dataset": {"path": str(dataset.resolve()), "sha256": _manifest_hash(dataset)},
    }
    save_config(config, folder / "config.json")
    write_text(folder / "run.json", json.dumps(description, indent=2) + "\n")


def open_run(folder: Path) -> Run:
    """Reads a run folder's settings; raises CheckpointError if it holds no run or is corrupt."""
    path = folder / "run.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a training run: it has no run.json")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        base, dataset = description["base"], description["dataset"]
        return Run(
            folder=folder,
            config=load_run_config(folder),
            base_places=((folder / base["path"]).resolve(), Path(base["absolute_path"])),
            base_sha256=base["sha256"],
            dataset=Path(dataset["path"]),
            dataset_sha256=dataset["sha256"],
        )
    except ConfigError as error:
        raise CheckpointError(f"{folder} is corrupt: {error}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is corrupt: {error!r}") from error


def find_base(run: Run) -> Path:
    """Returns the folder of the run's frozen base; raises CheckpointError if it is missing or another one."""
    found = [place for place in run.base_places if (place / "report.json").is_file()]
    if not found:
        places = " or ".join(map(str, dict.fromkeys(run.base_places)))
        raise CheckpointError(f"the frozen base of {run.folder} is missing: wanted it at {places}")
    base = next((place for place in found if base_hash(place) == run.base_sha256), found[0])
    require_base(run, base)
    return base


def require_base(run: Run, base: Path) -> None:
    """Raises CheckpointError unless `base` is the base that the run was trained on."""
    if not (base / "report.json").is_file():
        raise CheckpointError(f"base {base} is missing or not a pretrained folder: it has no report.json")
    given = base_hash(base)
    if given != run.base_sha256:
        raise CheckpointError(
            f"{base} is not the base that {run.folder} was trained on: the sha256 of its report.json is {given[:12]}, "
            f"wanted {run.base_sha256[:12]} (at {run.base_places[1]})"
        )


def require_same_run(run: Run, config: Config, base: Path, dataset: Path, allowed: Collection[str] = ()) -> None:
    """Raises CheckpointError unless `run` has the same settings, base and dataset.

    `allowed` are paths of settings, such as "train.learning_rate", that may differ from here on. Raises
    ConfigError if one is not a setting or is among FIXED_SETTINGS.
    """
    known = {*leaves(to_dict(config)), *leaves(to_dict(run.config))}
    for path in allowed:
        if not any(_below(name, (path,)) for name in known):
            raise ConfigError(f"--allow {path} is not a setting; give a path such as train.learning_rate")
        if _below(path, FIXED_SETTINGS) or path == "train":
            fixed = ", ".join(FIXED_SETTINGS)
            raise ConfigError(f"--allow {path} is not possible: checkpoints depend on {fixed}; start a new run instead")
    _require_same(config, run.config, f"run {run.folder}", (*FREE_SETTINGS, *allowed), hint=True)
    require_base(run, base)
    if _manifest_hash(dataset) != run.dataset_sha256:
        raise CheckpointError(f"{dataset} is not the dataset that {run.folder} was trained on: that was {run.dataset}")


def require_same_model(config: Config, made: Config, what: str) -> None:
    """Raises CheckpointError unless weights of config `made` fit `config`; `what` names them in the error."""
    _require_same(config, made, what, ("name", "mesh", "sampler", "train", "clip.hop_seconds"))


def _manifest_hash(dataset: Path) -> str:
    path = dataset / "manifest.json"
    if not path.is_file():
        raise DatasetError(f"{dataset} is not a dataset: it has no manifest.json")
    return file_sha256(path)


def _require_same(given: Config, made: Config, what: str, free: Collection[str], hint: bool = False) -> None:
    """Raises CheckpointError naming every setting outside `free` in which the two configs differ."""
    found = changes(to_dict(made), to_dict(given))
    different = {path: line for path, line in found.items() if not _below(path, free)}
    if different:
        shown = some([*different.values()], "; ")
        raise CheckpointError(f"{what} belongs to another config: {shown}{_way_out(different) if hint else ''}")


def _way_out(different: Iterable[str]) -> str:
    """Returns the advice to a user who wants these settings to differ."""
    fixed = [path for path in different if _below(path, FIXED_SETTINGS)]
    if fixed:
        return f" (checkpoints depend on {fixed[0]}, which cannot be allowed to differ: start a new run)"
    options = " ".join(f"--allow {path}" for path in different)
    return f" (to continue with other settings, add {options})"


def _below(path: str, prefixes: Iterable[str]) -> bool:
    """Whether the setting `path` is one of `prefixes` or below one."""
    return any(f"{path}.".startswith(f"{prefix}.") for prefix in prefixes)
