"""The exported form of a model: float16 weights in two safetensors files, small enough to share.

FOLDER/config.json              all settings
FOLDER/base.safetensors         U-Nets, VAEs, text encoders and vocoder; tensors are called PART/PATH
FOLDER/control.safetensors      all else of the joint model: connectors, environment encoders, Map Encoder, FiLM
FOLDER/tokenizer_{audio,video}/ transformers' files
FOLDER/report.json              origin, every training that the weights come from, totals, sha256 of every other file

A model opens from it as from a base (base/pretrained.py). The same weights give the same bytes, so that a control that
was trained longer leaves base.safetensors as it is.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from con360av_jax.config.files import save_config
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.errors import CheckpointError
from con360av_jax.models.functional import Params
from con360av_jax.runtime.files import replacing, write_text
from con360av_jax.runtime.provenance import file_sha256

FORM = "float16 safetensors"
VERSION = 1
BASE, CONTROL = "base.safetensors", "control.safetensors"
FILES = (BASE, CONTROL)


def is_exported(report: Mapping[str, object]) -> bool:
    """Whether report.json belongs to an exported model; otherwise it is that of a base in Orbax's format."""
    return report.get("form") == FORM


def require_average(folder: Path, report: Mapping[str, object], ema: bool) -> None:
    """Raises CheckpointError if the weights of the last step are asked for (`ema` False), which no export holds."""
    if not ema and report.get("step"):
        raise CheckpointError(f"{folder} holds only the moving average of its run's weights: leave out --raw-weights")


def file_of(part: str, path: str) -> str:
    """Returns the name of the file that holds the parameter `path` of `part`."""
    return CONTROL if part == "joint" and not path.startswith("unet/") else BASE


def tensor_rows(folder: Path) -> list[dict[str, object]]:
    """Describes every tensor, by the files' headers, as report.json of a base does; `chunk` is the number of a file."""
    rows: list[dict[str, object]] = []
    for number, name in enumerate(FILES):
        with safe_open(folder / name, framework="np") as file:
            for key in file.keys():  # noqa: SIM118  (the file is no mapping)
                part, _, path = key.partition("/")
                shape = list(file.get_slice(key).get_shape())
                rows.append({"part": part, "chunk": number, "path": path, "shape": shape, "dtype": "float16"})
    return rows


def read_files(folder: Path, part: str, wanted: Mapping[int, Params]) -> Iterator[dict[str, jax.Array]]:
    """Yields parameters of a part in float32, flat and file by file.

    Args:
        folder: exported model, whose files are known to be those that report.json describes.
        part: name of the part.
        wanted: number of a file -> path -> jax.ShapeDtypeStruct with the sharding of the parameter.
    """
    for number, leaves in wanted.items():
        with safe_open(folder / FILES[number], framework="np") as file:
            tensors = {path: file.get_tensor(f"{part}/{path}").astype(np.float32) for path in leaves}
        yield {path: jax.device_put(tensor, leaves[path].sharding) for path, tensor in tensors.items()}


def write_exported(
    folder: Path,
    config: Config,
    parts: Iterable[tuple[str, Mapping[str, np.ndarray]]],
    tokenizers: Path,
    report: Mapping[str, object],
) -> None:
    """Writes an exported model atomically.

    Args:
        folder: folder to make; must not exist.
        config: settings of the model.
        parts: each part's name and parameters by their paths (flat).
        tokenizers: folder whose tokenizer_audio and tokenizer_video are copied.
        report: origin and trainings, the first fields of report.json.

    Raises CheckpointError if a parameter is too large for float16, NaN or infinite, or `folder` cannot be written.
    """
    files: dict[str, dict[str, np.ndarray]] = {name: {} for name in FILES}
    totals: dict[str, dict[str, int]] = {}
    for part, flat in parts:
        totals[part] = {"tensors": len(flat), "parameters": sum(leaf.size for leaf in flat.values())}
        for path, leaf in flat.items():
            files[file_of(part, path)][f"{part}/{path}"] = _rounded(f"{part}/{path}", leaf)
    with replacing(folder, CheckpointError) as aside:
        aside.mkdir()
        for name, tensors in files.items():
            (aside / name).write_bytes(save(tensors))
        for name in MODALITIES:
            shutil.copytree(tokenizers / f"tokenizer_{name}", aside / f"tokenizer_{name}")
        save_config(config, aside / "config.json")
        written = sorted(path for path in aside.rglob("*") if path.is_file())
        hashes = {path.relative_to(aside).as_posix(): file_sha256(path) for path in written}
        content = {"version": VERSION, "form": FORM, **report, "totals": totals, "files": hashes}
        write_text(aside / "report.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _rounded(name: str, leaf: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = leaf.astype(np.float16, order="C")
    if not np.isfinite(rounded).all():
        raise CheckpointError(
            f"{name} holds values that float16 cannot (NaN, infinite or above {np.finfo(np.float16).max:g}): "
            "nothing exported"
        )
    return rounded
