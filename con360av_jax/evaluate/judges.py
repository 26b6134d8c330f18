"""Judges of protocol `scenes`: opened from the package, from a file, or from a run of `con360av pretrain`.

JUDGE.safetensors   float16 parameters by path, and one metadata entry "judge" with the JSON of a JudgeCard
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import jax
import numpy as np
from cattrs.errors import BaseValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from con360av_jax.base.parts import judge_factory
from con360av_jax.config.files import problems, structure, unstructure
from con360av_jax.config.pretraining import JUDGES, PretrainConfig
from con360av_jax.config.settings import MelConfig
from con360av_jax.errors import CheckpointError, first_line
from con360av_jax.models import functional
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.runtime.files import replacing
from con360av_jax.runtime.packaged import FOLDER
from con360av_jax.runtime.provenance import file_sha256
from con360av_jax.scenes.scene import CLASSES
from con360av_jax.scenes.textures import PALETTES
from con360av_jax.train import checkpoint, run_folder
from con360av_jax.train.trained_parts import ITEMS, open_trained

METADATA = "judge"
_HEADER = 8  # bytes before a safetensors header, which hold its length


@dataclass(frozen=True, kw_only=True)
class JudgeCard:
    """Settings and origin of a judge."""

    name: str
    """One of JUDGES."""
    pretrain: PretrainConfig
    mel: MelConfig
    classes: tuple[str, ...] = CLASSES
    """Classes in the order of the judge's outputs."""
    places: tuple[str, ...] = tuple(PALETTES)
    origin: dict[str, object] = field(default_factory=dict)
    """Commit, seeds, steps and data of the training run."""


@dataclass(frozen=True)
class Judge:
    """An opened judge."""

    card: JudgeCard
    params: Params = field(repr=False)
    sha256: str
    """Hash that identifies the weights."""

    @cached_property
    def apply(self) -> Callable[..., jax.Array]:
        """Compiled network, (params, frames or log-mels) -> models.judge.Seen or Heard."""
        graphdef, _ = functional.abstract(judge_factory(self.card.name, self.card.pretrain, self.card.mel.bands))
        return jax.jit(partial(functional.apply, graphdef))


def packaged(name: str) -> Path:
    """File of a judge that ships with the package, there or not."""
    return FOLDER / "judges" / f"{name}.safetensors"


def trained_judge(path: Path) -> Judge | None:
    """The judge of a run or of RUN/checkpoints/STEP; None for other weights. Raises CheckpointError if corrupt."""
    folder = next((place for place in (path, path.resolve().parent.parent) if (place / "run.json").is_file()), None)
    run = None if folder is None else run_folder.open_any(folder)
    return _of_run(path) if isinstance(run, run_folder.PretrainingRun) and run.part in JUDGES else None


def open_judge(name: str, path: Path | None = None) -> Judge:
    """Opens one of JUDGES from a file, a run or RUN/checkpoints/STEP; by default that of the package.

    Raises CheckpointError if it is missing, corrupt, another judge, or judges other classes or places.
    """
    path = path or packaged(name)
    found = _of_run(path) if path.is_dir() else _of_file(path)
    if found.card.name != name:
        raise CheckpointError(f"{path} is {found.card.name}, not {name}: give its own weights to each judge")
    if (found.card.classes, found.card.places) != (CLASSES, tuple(PALETTES)):
        raise CheckpointError(f"{path} judges other classes or places than scenes have now: train the judge again")
    return found


def write_judge(judge: Judge, path: Path) -> None:
    """Writes a judge's float16 weights; raises CheckpointError if the file cannot be written.

    The origin is without the folder of the run, which means nothing elsewhere.
    """
    origin = {name: value for name, value in judge.card.origin.items() if name != "run"}
    card = json.dumps(unstructure(replace(judge.card, origin=origin)))
    tensors = {name: np.asarray(leaf).astype(np.float16) for name, leaf in flatten(judge.params).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, CheckpointError) as aside:
        aside.write_bytes(save(tensors, metadata={METADATA: card}))


def _of_run(path: Path) -> Judge:
    folder, step_folder = checkpoint.locate(path, ITEMS)
    run = run_folder.open_pretraining(folder)
    if run.part not in JUDGES:
        raise CheckpointError(f"{path} trained {run.part}, which is no judge: give a run of {' or '.join(JUDGES)}")
    trained = open_trained(step_folder, run.config)
    card = JudgeCard(name=run.part, pretrain=run.config.pretrain, mel=run.config.mel, origin=dict(trained.origin))
    return Judge(card, trained.params[run.part], file_sha256(step_folder / checkpoint.HASHES))


def _of_file(path: Path) -> Judge:
    try:
        data = path.read_bytes()
        header: Mapping[str, Mapping[str, str]] = json.loads(
            data[_HEADER : _HEADER + int.from_bytes(data[:_HEADER], "little")]
        )
        card = structure(json.loads(header["__metadata__"][METADATA]), JudgeCard)
        params = unflatten({name: leaf.astype(np.float32) for name, leaf in load(data).items()})
    except BaseValidationError as error:
        raise CheckpointError(f"{path} is no judge: {problems(error)}") from error
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is no judge ({first_line(error)}): give a file or a run that holds one"
        ) from error
    _, shapes = functional.abstract(judge_factory(card.name, card.pretrain, card.mel.bands))
    wanted, found = ({name: leaf.shape for name, leaf in flatten(tree).items()} for tree in (shapes, params))
    if wanted != found:
        raise CheckpointError(f"{path} is corrupt: its tensors are not those of {card.name}; get the file again")
    return Judge(card, params, file_sha256(path))
