"""A training run on disk: checkpoints hold only what training changes, the frozen base is a pointer with a hash.

RUN/config.json             the settings
RUN/run.json                the frozen base (where it lies, sha256 of its report.json) and the dataset
RUN/metrics.jsonl           one line per log interval
RUN/checkpoints/STEP/       trainable, ema, optimizer: arrays that open on any mesh (Orbax)
             STEP/progress  step, state of the data order (one number), seed
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from con360av_jax.config import Config
from con360av_jax.config_io import config_hash, load_config_json, save_config, to_dict, write_text
from con360av_jax.errors import CheckpointError, ConfigError, DatasetError
from con360av_jax.models.functional import Params
from con360av_jax.pretrained import base_hash
from con360av_jax.train.state import TrainState

ARRAYS = ("trainable", "ema", "optimizer")

# What may change between stopping and resuming without changing any step that was already made.
FREE_SETTINGS = (
    "name", "mesh", "sampler", "train.steps", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands, besides its arrays."""

    step: int
    """Optimizer steps made."""
    next_batch: int
    """State of the loader: the batch that comes next."""
    seed: int
    """Seed of the run; the key of step s is fold_in(key(seed), s)."""


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
    """Reads a run folder's settings; raises CheckpointError if it holds no run or is damaged."""
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
        raise CheckpointError(f"{folder} is damaged: {error}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from error


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


def require_same_run(run: Run, config: Config, base: Path, dataset: Path) -> None:
    """Raises CheckpointError unless these settings, base and dataset make `run` go on as if it had never stopped."""
    _require_same(config, run.config, f"run {run.folder}", FREE_SETTINGS)
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


def _require_same(given: Config, made: Config, what: str, free: tuple[str, ...]) -> None:
    """Raises CheckpointError naming every setting outside `free` in which the two configs differ."""
    one, other = _leaves(to_dict(given)), _leaves(to_dict(made))
    different = [
        f"{path} is {one.get(path, 'absent')} here, {other.get(path, 'absent')} there"
        for path in sorted({*one, *other})
        if one.get(path) != other.get(path) and not any(f"{path}.".startswith(f"{prefix}.") for prefix in free)
    ]
    if different:
        shown = "; ".join(different[:4]) + (f"; and {len(different) - 4} more" if len(different) > 4 else "")
        raise CheckpointError(f"{what} belongs to another config: {shown}")


def _leaves(value: object, path: str = "") -> dict[str, object]:
    """Nested dicts and lists as {"a.b.0": scalar}."""
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    else:
        return {path: value}
    return {
        k: v for name, child in children for k, v in _leaves(child, f"{path}.{name}" if path else f"{name}").items()
    }


class CheckpointWriter:
    """Writes RUN/checkpoints/STEP in the background and keeps the newest ones; on leaving, everything is on disk."""

    def __init__(self, run: Path, config: Config):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.train.keep_checkpoints,
            enable_async_checkpointing=True,
            create=True,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(
            (run / "checkpoints").resolve(), options=options, item_names=(*ARRAYS, "progress")
        )

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, state: TrainState, progress: Progress) -> None:
        """Starts writing one checkpoint; the state may be donated as soon as this returns."""
        items = {name: ocp.args.StandardSave(tree) for name, tree in arrays_of(state).items()}
        self._manager.save(
            progress.step, args=ocp.args.Composite(**items, progress=ocp.args.JsonSave(asdict(progress)))
        )


def arrays_of(state: TrainState) -> Params:
    """What of a state is stored as arrays, by the name of its item."""
    return {"trainable": state.params, "ema": state.ema, "optimizer": state.opt_state}


def locate(path: Path) -> tuple[Path, Path]:
    """The run folder and the step folder that `path` (RUN or RUN/checkpoints/STEP) means; of a run, the newest step.

    Raises:
        CheckpointError: there is no such run, or it has no finished checkpoint.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist: give a pretrained folder, a run or RUN/checkpoints/STEP")
    if (path / "run.json").is_file():
        steps = finished_steps(path)
        if not steps:
            raise CheckpointError(f"{path} has no finished checkpoint yet: train it first")
        return path, path / "checkpoints" / str(steps[-1])
    run = path.resolve().parent.parent
    if path.resolve().parent.name != "checkpoints" or not (run / "run.json").is_file():
        raise CheckpointError(
            f"{path} is neither a pretrained folder (report.json) nor a run (run.json) nor RUN/checkpoints/STEP"
        )
    if not path.name.isdigit() or int(path.name) not in finished_steps(run):
        raise CheckpointError(f"{path} is no finished checkpoint; {run} has steps {finished_steps(run)}")
    return run, path


def finished_steps(run: Path) -> list[int]:
    """Steps of the finished checkpoints of a run, ascending."""
    folder = run / "checkpoints"
    return sorted(ocp.utils.checkpoint_steps(folder.resolve())) if folder.is_dir() else []


def read_progress(step_folder: Path) -> Progress:
    """Reads where a checkpoint stands; raises CheckpointError if it is damaged."""
    restored = _restore(step_folder, {"progress": ocp.args.JsonRestore()})["progress"]
    try:
        return Progress(**restored)
    except TypeError as error:
        raise CheckpointError(f"{step_folder} is damaged: progress is {restored!r}") from error


def read_arrays(step_folder: Path, wanted: Mapping[str, Params]) -> dict[str, Params]:
    """Reads items of a checkpoint straight into the shardings of `wanted`.

    Args:
        step_folder: RUN/checkpoints/STEP, written on any mesh.
        wanted: item name -> pytree of jax.ShapeDtypeStruct with shardings.

    Raises:
        CheckpointError: an item is missing, damaged, or of other names or shapes.
    """
    return _restore(step_folder, {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()})


def _restore(step_folder: Path, items: Mapping[str, ocp.args.CheckpointArgs]) -> dict:
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(*items)) as checkpointer:
        try:
            restored = checkpointer.restore(step_folder.resolve(), args=ocp.args.Composite(**items))
        except (OSError, ValueError, KeyError, TypeError) as error:
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise CheckpointError(
                f"checkpoint {step_folder} is damaged or of another model ({first_line[:160]}): "
                "remove its folder to go on from the checkpoint before it"
            ) from error
    damaged = [name for name in items if restored[name] is None]
    if damaged:
        raise CheckpointError(f"checkpoint {step_folder} is damaged: {', '.join(damaged)} is missing")
    return {name: restored[name] for name in items}


def abstract(tree: Params) -> Params:
    """The shapes, dtypes and shardings of a pytree of arrays, for `read_arrays`."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)
