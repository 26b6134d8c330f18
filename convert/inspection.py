"""The `inspect` command: networks, counts, dtypes and matching table of weights on disk, without loading tensors."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table as Grid
from rich.text import Text

from con360av_jax.errors import CheckpointError
from convert.rules import Table
from convert.tables.control import CONTROL
from convert.tables.joint import CONNECTORS, JOINT, UNET
from convert.tables.motion import ANIMATEDIFF, MOTION_ADAPTER
from convert.tables.text import CLAP_TEXT, CLIP_TEXT
from convert.tables.vae import VAE
from convert.tables.vocoder import VOCODER
from convert.torch_files.choice import NAMED, weight_files
from convert.torch_files.strangers import stranger
from convert.torch_files.weight_norm import fold_weight_norm, folded_name
from convert.torch_files.weights import TensorInfo, Weights, open_weights

OWN = "con360av-jax"
UNKNOWN = "unknown"

# The first of several tables that fit equally well is chosen: a motion module's names are also a U-Net's.
FAMILIES: Mapping[str, Table] = {
    "connectors": CONNECTORS,
    "Map Encoder and FiLM": CONTROL,
    "VAE": VAE,
    "CLIP text": CLIP_TEXT,
    "CLAP text": CLAP_TEXT,
    "vocoder": VOCODER,
    "motion adapter": MOTION_ADAPTER,
    "AnimateDiff": ANIMATEDIFF,
    "U-Net": UNET,
    "joint baseline": JOINT,
}

# Smallest share of names with exactly one matching entry for which a table counts as recognised.
RECOGNISED = 0.5

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PartSummary:
    """One network, or one tree of arrays of a training run."""

    name: str
    files: tuple[Path, ...]
    """Weight files, or the folder of an Orbax checkpoint."""
    tensors: int
    parameters: int
    dtypes: Mapping[str, int]
    """Number of tensors by dtype."""
    family: str
    """A key of FAMILIES; OWN if converted already, UNKNOWN if no table fits, or what the file is instead of a network
    (torch_files/strangers.py)."""
    unmatched: tuple[str, ...] = ()
    """Names that match no entry or several entries of the family's table; all names if the family is unknown."""
    folded: int = 0
    """Number of weights stored with weight normalisation, as two tensors each."""


def inspect_path(path: Path) -> list[PartSummary]:
    """Summaries of a weights file, a network's folder, a pipeline's folder, a pretrained folder or a training run.

    Raises CheckpointError if there is nothing to inspect or any part of it is corrupt.
    """
    if (path / "report.json").is_file():
        exported = sorted(path.glob("*.safetensors"))
        return _exported(exported) if exported else _pretrained(path)
    if (path / "run.json").is_file() or (path / "_CHECKPOINT_METADATA").is_file():
        return _training_step(path)
    if path.is_dir() and not _has_usual_name(path):
        networks = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and weight_files(folder)]
        if networks:
            return [_network(folder.name, open_weights(folder)) for folder in networks]
    return [_network(path.name or path.resolve().name, open_weights(path))]


def render(summaries: Iterable[PartSummary]) -> Grid:
    """One row per part, for the terminal."""
    grid = Grid()
    for heading in ("part", "tensors", "parameters", "dtypes", "table"):
        number = heading in ("tensors", "parameters")
        grid.add_column(heading, overflow="fold", justify="right" if number else "left", no_wrap=number)
    for part in summaries:
        cells = (
            "\n".join((part.name, *(file.name for file in part.files if file.name != Path(part.name).name))),
            f"{part.tensors:,}",
            f"{part.parameters:,}",
            "\n".join(f"{count:,} {dtype}" for dtype, count in part.dtypes.items()),
            "\n".join(filter(None, (part.family, _folding(part.folded), _shortened(part.unmatched)))),
        )
        # As text: rich would read brackets in a tensor name as markup.
        grid.add_row(*map(Text, cells))
    return grid


def recognise(names: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """The family whose table has exactly one entry for most of `names`, and the names for which it has not."""
    names = tuple(names)
    left = {family: _unmatched(names, table) for family, table in FAMILIES.items()}
    best = min(left, key=lambda family: len(left[family]))
    if len(left[best]) > (1 - RECOGNISED) * len(names) or not names:
        return UNKNOWN, names
    return best, left[best]


def _unmatched(names: Iterable[str], table: Table) -> tuple[str, ...]:
    patterns = [re.compile(entry.pattern) for entry in table]
    return tuple(name for name in names if sum(pattern.fullmatch(name) is not None for pattern in patterns) != 1)


def _network(name: str, weights: Weights) -> PartSummary:
    files = tuple(dict.fromkeys(info.file for info in weights.infos.values()))
    summary = _summary(name, files, [(info.shape, info.dtype) for info in weights.infos.values()], UNKNOWN)
    if other := stranger(weights):
        return replace(summary, family=other.what)
    family, unmatched = recognise(dict.fromkeys(map(folded_name, weights)))
    if family == UNKNOWN:  # and so are the axes that its weights may be normalised over
        return replace(summary, unmatched=tuple(weights))
    folded = len(weights) - len(fold_weight_norm(weights))
    return replace(summary, family=family, unmatched=unmatched, folded=folded)


def _summary(
    name: str, files: tuple[Path, ...], arrays: list[tuple[Shape, str]], family: str, unmatched: tuple[str, ...] = ()
) -> PartSummary:
    return PartSummary(
        name=name,
        files=files,
        tensors=len(arrays),
        parameters=sum(math.prod(shape) for shape, _ in arrays),
        dtypes=dict(Counter(dtype for _, dtype in arrays)),
        family=family,
        unmatched=unmatched,
    )


def _has_usual_name(folder: Path) -> bool:
    # A repository of a whole pipeline may have single-file copies of it at its root.
    return any(file.name in NAMED for file in weight_files(folder))


def _pretrained(folder: Path) -> list[PartSummary]:
    parts: dict[str, list[tuple[Shape, str]]] = {}
    try:
        for row in json.loads((folder / "report.json").read_text(encoding="utf-8"))["tensors"]:
            parts.setdefault(row["part"], []).append((tuple(row["shape"]), row["dtype"]))
        return [_summary(name, (folder / "params" / name,), arrays, OWN) for name, arrays in parts.items()]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{folder / 'report.json'} is corrupt ({error!r}): make or convert the folder again"
        ) from error


def _exported(files: Iterable[Path]) -> list[PartSummary]:
    """Summaries of the files of `con360av export`, by part."""
    parts: dict[str, dict[str, TensorInfo]] = {}
    for file in files:
        for name, info in open_weights(file).infos.items():
            parts.setdefault(name.partition("/")[0], {})[name] = info
    return [
        _summary(
            part,
            tuple(dict.fromkeys(info.file for info in infos.values())),
            [(info.shape, info.dtype) for info in infos.values()],
            OWN,
        )
        for part, infos in parts.items()
    ]


def _training_step(path: Path) -> list[PartSummary]:
    # Imported here: Orbax and JAX take seconds, and PyTorch's files need neither.
    import jax
    import orbax.checkpoint as ocp

    from con360av_jax.train.checkpoint import ARRAYS, locate

    _, step = locate(path)
    summaries = []
    with ocp.StandardCheckpointer() as checkpointer:
        for name in ARRAYS:
            try:
                tree = checkpointer.metadata((step / name).resolve()).item_metadata
                arrays = [(tuple(leaf.shape), str(leaf.dtype)) for leaf in jax.tree.leaves(tree.tree)]
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(f"{step / name} is missing or corrupt ({error!r})") from error
            summaries.append(_summary(f"{step.name}/{name}", (step / name,), arrays, OWN))
    return summaries


def _folding(folded: int) -> str:
    return f"weight normalisation of {folded:,} weights, folded on reading" if folded else ""


def _shortened(names: tuple[str, ...]) -> str:
    shown = "\n".join((*names[:3], ".." if len(names) > 3 else ""))
    return f"no rule for {len(names):,}:\n{shown}" if names else ""
