"""The folder of a training run: its settings, frozen base and dataset, and whether a resumed run has the same.

RUN/config.json             settings; epochs are recorded as steps
RUN/run.json                commit; paths and hashes of the frozen base, of the dataset and of the held-out one, if any;
                            or what is pretrained on which data (train/run_datasets.py)
RUN/metrics.jsonl           one line per log interval (train/metrics.py)
RUN/validation.jsonl        two lines per validation (train/validation.py)
RUN/samples/STEP/           sample clips of held-out records (train/samples.py)
RUN/nonfinite.jsonl         one line per step with a NaN or infinite loss or gradient (train/nonfinite.py)
RUN/damaged-PROCESS.jsonl   one line per corrupt record (train/corrupt_records.py)
RUN/checkpoints/STEP/       checkpoint (train/checkpoint.py)
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax

from con360av_jax.base.pretrained import base_hash
from con360av_jax.config.files import changes, config_hash, leaves, load_run_config, save_config, to_dict
from con360av_jax.config.pretraining import JUDGES, Part
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.errors import CheckpointError, ConfigError, some
from con360av_jax.runtime.files import write_text
from con360av_jax.runtime.provenance import commit
from con360av_jax.train import run_datasets
from con360av_jax.train.run_datasets import DATASET, RunDataset

# Settings that may differ in a resumed run without another option.
FREE_SETTINGS = (
    "name", "mesh", "sampler", "pretrain.validation_batches", "train.steps", "train.epochs", "train.log_every",
    "train.checkpoint_every", "train.keep_checkpoints", "train.on_nan", "train.max_skips", "train.loader_threads",
    "train.on_corrupt", "train.max_corrupt_share", "train.tensorboard", "train.wandb_project", "train.milestone_every",
    "train.validate_every", "train.sample_every", "train.sample_clips",
)  # fmt: skip
# Settings that no option allows to differ in a resumed run: shapes in the checkpoint and in the dataset depend on them,
# or the order of samples, since the checkpoint stores a number of batches in an order drawn from the seed, or what the
# best checkpoint was measured on.
FIXED_SETTINGS = (
    "model", "clip", "mel", "train.trainable", "train.batch_size", "train.seed", "train.validation_records",
)  # fmt: skip

# Settings that weights do not depend on.
FREE_OF_WEIGHTS = ("name", "mesh", "sampler", "train", "pretrain", "clip")


@dataclass(frozen=True, kw_only=True)
class AnyRun:
    """Contents of config.json and run.json that every run folder has."""

    folder: Path
    config: Config
    base_places: tuple[Path, Path]
    """Recorded places of the frozen base: relative to the run, and absolute."""
    base_sha256: str
    """SHA-256 of report.json of the base."""
    commit: str
    """Commit that the run was started or last resumed with; "unknown" for old runs."""


@dataclass(frozen=True, kw_only=True)
class Run(AnyRun):
    """Contents of config.json and run.json of a run of `con360av train`."""

    dataset: RunDataset
    validation: RunDataset | None = None
    """Held-out dataset; None if the run is not validated."""
    earlier: tuple[RunDataset, ...] = ()
    """Datasets that the run was trained on before."""


@dataclass(frozen=True, kw_only=True)
class PretrainingRun(AnyRun):
    """Contents of config.json and run.json of a run of `con360av pretrain`."""

    part: Part
    """Part that is trained."""
    data: Mapping[str, object]
    """Description of the training data (train/pretraining_data.py)."""


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


def write_run(
    folder: Path, config: Config, base: Path, dataset: Path, validation: Path | None = None, before: Run | None = None
) -> None:
    """Writes config.json and then run.json of a new run, or of the run `before` resumed, on process 0 only."""
    now = RunDataset.of(dataset)
    earlier = [] if before is None else run_datasets.earlier_datasets(before.dataset, before.earlier, now)
    held_out = {} if validation is None else {"validation": RunDataset.of(validation).entry()}
    _write(folder, config, base, {DATASET: run_datasets.dataset_entry(now, earlier), **held_out})


def write_pretraining(folder: Path, config: Config, base: Path, part: str, data: Mapping[str, object]) -> None:
    """Writes config.json and then run.json of a new or resumed run of `con360av pretrain`, on process 0 only."""
    _write(folder, config, base, {"pretraining": {"part": part, "data": data}})


def _write(folder: Path, config: Config, base: Path, more: Mapping[str, object]) -> None:
    if jax.process_index() != 0:
        return
    place = {
        "path": os.path.relpath(base.resolve(), folder.resolve()),
        "absolute_path": str(base.resolve()),
        "sha256": base_hash(base),
    }
    description = {"config_hash": config_hash(config), "base": place, "commit": commit(), **more}
    save_config(config, folder / "config.json")
    write_text(folder / "run.json", json.dumps(description, indent=2) + "\n")


def open_run(folder: Path) -> Run:
    """Reads the folder of a run of `con360av train`.

    Raises CheckpointError if it holds no such run, a run of `con360av pretrain`, or is corrupt.
    """
    run = open_any(folder)
    if isinstance(run, PretrainingRun):
        command = "evaluate --weights" if run.part in JUDGES else "init --part"
        raise CheckpointError(
            f"{folder} is a run of con360av pretrain {run.part}: give it to con360av {command} {run.part}={folder}"
        )
    return run


def open_pretraining(folder: Path) -> PretrainingRun:
    """Reads the folder of a run of `con360av pretrain`; raises CheckpointError if it holds none or is corrupt."""
    run = open_any(folder)
    if isinstance(run, Run):
        raise CheckpointError(f"{folder} is a run of con360av train, not of con360av pretrain")
    return run


def open_any(folder: Path) -> Run | PretrainingRun:
    """Reads a run folder of either kind; raises CheckpointError if it holds no run or is corrupt."""
    path = folder / "run.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a training run: it has no run.json")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        base = description["base"]
        shared = {
            "folder": folder,
            "config": load_run_config(folder),
            "base_places": ((folder / base["path"]).resolve(), Path(base["absolute_path"])),
            "base_sha256": base["sha256"],
            "commit": description.get("commit", "unknown"),
        }
        if "pretraining" in description:  # of earlier versions, with the commit in it
            return PretrainingRun(**{**shared, **description["pretraining"]})
        dataset, validation = description[DATASET], description.get("validation")
        return Run(
            **shared,
            dataset=RunDataset.recorded(dataset),
            validation=RunDataset.recorded(validation) if validation else None,
            earlier=run_datasets.recorded_earlier(dataset),
        )
    except ConfigError as error:
        raise CheckpointError(f"{folder} is corrupt: {error}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is corrupt: {error!r}") from error


def find_base(run: AnyRun) -> Path:
    """Returns the folder of the run's frozen base; raises CheckpointError if it is missing or another one."""
    found = [place for place in run.base_places if (place / "report.json").is_file()]
    if not found:
        places = " or ".join(map(str, dict.fromkeys(run.base_places)))
        raise CheckpointError(f"the frozen base of {run.folder} is missing: wanted it at {places}")
    base = next((place for place in found if base_hash(place) == run.base_sha256), found[0])
    require_base(run, base)
    return base


def require_base(run: AnyRun, base: Path) -> None:
    """Raises CheckpointError unless `base` is the base that the run was trained on."""
    if not (base / "report.json").is_file():
        raise CheckpointError(f"base {base} is missing or not a pretrained folder: it has no report.json")
    given = base_hash(base)
    if given != run.base_sha256:
        raise CheckpointError(
            f"{base} is not the base that {run.folder} was trained on: the sha256 of its report.json is {given[:12]}, "
            f"wanted {run.base_sha256[:12]} (at {run.base_places[1]})"
        )


def require_same_run(
    run: Run,
    config: Config,
    base: Path,
    dataset: Path,
    allowed: Collection[str] = (),
    validation: Path | None = None,
) -> None:
    """Raises CheckpointError unless `run` has the same settings, base, dataset and held-out dataset.

    A run without held-out dataset may get one. `allowed` as in `require_same`.
    """
    require_same(run, config, base, allowed)
    run_datasets.require_same_dataset(run.folder, run.dataset, RunDataset.of(dataset), allowed)
    if run.validation is not None:
        run_datasets.require_same_validation(run.folder, run.validation, validation)


def require_same(run: AnyRun, config: Config, base: Path, allowed: Collection[str] = ()) -> None:
    """Raises CheckpointError unless `run` has the same settings and base.

    `allowed` are paths of settings, such as "train.learning_rate", that may differ from here on, and "dataset". Raises
    ConfigError if one is not a setting or is among FIXED_SETTINGS.
    """
    allowed = [path for path in allowed if path != DATASET]
    known = {*leaves(to_dict(config)), *leaves(to_dict(run.config))}
    for path in allowed:
        if not any(_below(name, (path,)) for name in known):
            raise ConfigError(f"--allow {path} is not a setting; give a path such as train.learning_rate")
        if _below(path, FIXED_SETTINGS) or path == "train":
            fixed = ", ".join(FIXED_SETTINGS)
            raise ConfigError(f"--allow {path} is not possible: checkpoints depend on {fixed}; start a new run instead")
    _require_same(config, run.config, f"run {run.folder}", (*FREE_SETTINGS, *allowed), _way_out)
    require_base(run, base)


def require_same_model(config: Config, made: Config, what: str) -> None:
    """Raises CheckpointError unless networks, mel and schedules of `config` are those of `made`, the weights' config.

    `what` names the weights in the error. The size of a clip is free: networks take clips of many sizes.
    """
    _require_same(config, made, what, FREE_OF_WEIGHTS, _leave_out)


def require_same_networks(config: Config, made: Config, what: str) -> None:
    """Raises CheckpointError unless weights of config `made` fit `config`, except for measured scaling factors."""
    measured = (f"model.vae.{name}.scaling_factor" for name in MODALITIES)
    _require_same(config, made, what, (*FREE_OF_WEIGHTS, *measured), _leave_out)


def require_same_pretraining(
    run: PretrainingRun,
    config: Config,
    base: Path,
    part: str,
    data: Mapping[str, object],
    allowed: Collection[str] = (),
) -> None:
    """Raises CheckpointError unless `run` has the same settings, base, part and data; see `require_same`."""
    if part != run.part:
        raise CheckpointError(f"{run.folder} pretrains {run.part}, not {part}")
    require_same(run, config, base, allowed)
    run_datasets.require_same_data(run.folder, run.data, data, allowed)


def _require_same(
    given: Config, made: Config, what: str, free: Collection[str], way_out: Callable[[Iterable[str]], str]
) -> None:
    """Raises CheckpointError naming every setting outside `free` in which the two configs differ, and the way out."""
    found = changes(to_dict(made), to_dict(given))
    different = {path: line for path, line in found.items() if not _below(path, free)}
    if different:
        shown = some([*different.values()], "; ")
        raise CheckpointError(f"{what} belongs to another config: {shown}{way_out(different)}")


def _way_out(different: Iterable[str]) -> str:
    """Returns the advice to a user who wants these settings to differ."""
    fixed = [path for path in different if _below(path, FIXED_SETTINGS)]
    if fixed:
        return f" (checkpoints depend on {fixed[0]}, which cannot be allowed to differ: start a new run)"
    options = " ".join(f"--allow {path}" for path in different)
    return f" (to continue with other settings, add {options})"


def _leave_out(different: Iterable[str]) -> str:
    """Returns the advice to a user who gave these settings, which follow from the weights."""
    parts = ", ".join(dict.fromkeys(path.partition(".")[0] for path in different))
    return f" ({parts}: decided by the weights, leave out these settings)"


def _below(path: str, prefixes: Iterable[str]) -> bool:
    """Whether the setting `path` is one of `prefixes` or below one."""
    return any(f"{path}.".startswith(f"{prefix}.") for prefix in prefixes)
