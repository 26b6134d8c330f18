"""What a training run's folder says about itself: its settings, its frozen base and its dataset, and what fits to them.

RUN/config.json             the settings
RUN/run.json                the frozen base (where it lies, sha256 of its report.json) and the dataset
RUN/metrics.jsonl           one line per log interval
RUN/nonfinite.jsonl         one line per step whose loss was no number (train/nonfinite.py)
RUN/checkpoints/STEP/       see train/checkpoint.py
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax

from con360av_jax.base.pretrained import base_hash
from con360av_jax.config.files import config_hash, leaves, load_config_json, save_config, to_dict
from con360av_jax.config.settings import Config
from con360av_jax.errors import CheckpointError, ConfigError, DatasetError
from con360av_jax.runtime.files import write_text

# What may change between stopping and resuming without changing any step that was already made.
FREE_SETTINGS = (
    "name", "mesh", "sampler", "train.steps", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints",
    "train.on_nan", "train.max_skips", "train.loader_threads", "train.on_corrupt", "train.max_corrupt_share",
    "train.tensorboard", "train.wandb_project",
)  # fmt: skip
# The shapes in a checkpoint and in the dataset, and which samples come next, follow from these: no option can allow
# others. The place in the data is a number of batches, in an order that the seed draws.
FIXED_SETTINGS = ("model", "clip", "mel", "train.trainable", "train.batch_size", "train.seed")
SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run folder says about itself."""

    folder: Path
    config: Config
    base_places: tuple[Path, Path]
    """Where the frozen base lies, relative to the run and absolute: either may be moved."""
    base_sha256: str
    """Hash of the base's report.json."""
    dataset: Path
    dataset_sha256: str
    """Hash of the dataset's manifest.json."""


def append_line(path: Path, line: Mapping[str, object]) -> None:
    """Adds a line to one of the run's logs; raises CheckpointError if it cannot be written (the disk is full)."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror}): make room and resume; the checkpoints are still there"
        ) from error


def refuse_existing(folder: Path) -> None:
    """Raises CheckpointError if something already lies at `folder`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} already exists: add --resume to go on with it, or choose another folder")


def write_run(folder: Path, config: Config, base: Path, dataset: Path) -> None:
    """Makes a run folder, or writes the settings a resumed run goes on with; run.json comes last."""
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
        raise CheckpointError(f"{folder} is no training run: it has no run.json")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        base, dataset = description["base"], description["dataset"]
        return Run(
            folder=folder,
            config=load_config_json(folder / "config.json"),
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
    """The folder of the run's frozen base; raises CheckpointError if it is missing or another one."""
    found = [place for place in run.base_places if (place / "report.json").is_file()]
    if not found:
        places = " or ".join(map(str, dict.fromkeys(run.base_places)))
        raise CheckpointError(f"the frozen base of {run.folder} is missing: wanted it at {places}")
    for place in found:
        if base_hash(place) == run.base_sha256:
            return place
    require_base(run, found[0])
    return found[0]


def require_base(run: Run, base: Path) -> None:
    """Raises CheckpointError unless `base` is what the run was trained on."""
    if not (base / "report.json").is_file():
        raise CheckpointError(f"base {base} is missing or no pretrained folder: it has no report.json")
    given = base_hash(base)
    if given != run.base_sha256:
        raise CheckpointError(
            f"{base} is not the base that {run.folder} was trained on: the sha256 of its report.json is {given[:12]}, "
            f"wanted {run.base_sha256[:12]} (at {run.base_places[1]})"
        )


def require_same_run(run: Run, config: Config, base: Path, dataset: Path, allowed: Collection[str] = ()) -> None:
    """Raises CheckpointError unless these settings, base and dataset make `run` go on as if it had never stopped.

    `allowed` are paths of settings ("train.learning_rate") that may differ all the same, from here on; ConfigError if
    one is no setting, or one on which the shapes in a checkpoint depend.
    """
    known = {*leaves(to_dict(config)), *leaves(to_dict(run.config))}
    for path in allowed:
        if not any(_below(name, (path,)) for name in known):
            raise ConfigError(f"--allow {path} is no setting; give a path such as train.learning_rate")
        if _below(path, FIXED_SETTINGS) or path == "train":
            fixed = ", ".join(FIXED_SETTINGS)
            raise ConfigError(
                f"--allow {path} is not possible: what was saved depends on {fixed}; start a new run instead"
            )
    _require_same(config, run.config, f"run {run.folder}", (*FREE_SETTINGS, *allowed), hint=True)
    require_base(run, base)
    if _manifest_hash(dataset) != run.dataset_sha256:
        raise CheckpointError(f"{dataset} is not the dataset that {run.folder} was trained on: that was {run.dataset}")


def require_same_model(config: Config, made: Config, what: str) -> None:
    """Raises CheckpointError unless weights that were made for config `made` fit `config`."""
    _require_same(config, made, what, ("name", "mesh", "sampler", "train", "clip.hop_seconds"))


def _manifest_hash(dataset: Path) -> str:
    path = dataset / "manifest.json"
    if not path.is_file():
        raise DatasetError(f"{dataset} is no dataset: it has no manifest.json")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _require_same(given: Config, made: Config, what: str, free: Collection[str], hint: bool = False) -> None:
    """Raises CheckpointError naming every setting outside `free` in which the two configs differ."""
    one, other = leaves(to_dict(given)), leaves(to_dict(made))
    different = [path for path in sorted({*one, *other}) if one.get(path) != other.get(path) and not _below(path, free)]
    if not different:
        return
    lines = [f"{path} is {one.get(path, 'absent')} here, {other.get(path, 'absent')} there" for path in different]
    shown = "; ".join(lines[:SHOWN]) + (f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else "")
    raise CheckpointError(f"{what} belongs to another config: {shown}{_way_out(different) if hint else ''}")


def _way_out(different: Iterable[str]) -> str:
    """What somebody who wants these settings to differ can do."""
    fixed = [path for path in different if _below(path, FIXED_SETTINGS)]
    if fixed:
        return f" (what was saved depends on {fixed[0]}, which cannot be allowed to differ: start a new run)"
    options = " ".join(f"--allow {path}" for path in different)
    return f" (to go on with other settings all the same, add {options})"


def _below(path: str, prefixes: Iterable[str]) -> bool:
    """Whether the setting `path` is one of `prefixes` or lies in one."""
    return any(f"{path}.".startswith(f"{prefix}.") for prefix in prefixes)
