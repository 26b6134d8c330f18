"""The pretrained folder: weights of every network, both tokenizers, the config and a report with a hash per tensor.

FOLDER/config.json              all settings
FOLDER/params/PART/CHUNK/       Orbax checkpoints of at most 0.5 GiB; a part opens alone, or part of it, on any mesh
FOLDER/params/PART.json         sha256 of every file of a part's checkpoints
FOLDER/tokenizer_{audio,video}/ transformers' files
FOLDER/report.json              per tensor: part, chunk, path, shape, dtype, sha256; totals; sha256 of every other file;
                                runs that trained parts come from

A folder in the exported form (base/exported.py) opens in the same way.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from con360av_jax.base import exported
from con360av_jax.base.chunks import damaged, files_below, full_chunks, read_chunks, save_chunk
from con360av_jax.base.parts import PARTS
from con360av_jax.base.tokenizer import TextTokenizer, load_tokenizer
from con360av_jax.config.files import load_config_json, save_config
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.errors import CheckpointError
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.runtime.files import replacing, write_text
from con360av_jax.runtime.provenance import file_sha256

REPORT_VERSION = 2


@dataclass(frozen=True)
class Pretrained:
    """An opened pretrained folder; weights are read when asked for."""

    folder: Path
    config: Config
    tokenizers: Mapping[str, TextTokenizer]
    """Tokenizers by modality: "audio" is CLAP's, "video" CLIP's."""
    report: Mapping[str, object] = field(repr=False)

    def params(self, part: str, shardings: Params | None = None, below: tuple[str, ...] = ()) -> Params:
        """Reads one of PARTS, or only its parameters below the path `below`, such as ("unet", "audio").

        `shardings`, a nested dict like the result, places the parameters while they are read.
        Raises CheckpointError if the part is missing or corrupt, or has nothing below that path.
        """
        chunks = self._chunks(part, shardings, below)
        return unflatten({path: leaf for chunk in chunks for path, leaf in chunk.items()})

    @property
    def step(self) -> int:
        """Number of training steps of the control in an exported model; 0 for other folders."""
        step = self.report.get("step", 0)
        return step if isinstance(step, int) else 0

    def verify(self) -> None:
        """Reads all weights and compares them with report.json; raises CheckpointError naming the first difference."""
        if exported.is_exported(self.report):
            return  # Its files were compared when it was opened.
        for part in PARTS:
            hashes = {row["path"]: row["sha256"] for row in _rows(self.report, part)}
            for chunk in self._chunks(part):
                for path in sorted(chunk):
                    if _sha256(np.asarray(chunk.pop(path)).tobytes()) != hashes[path]:
                        raise damaged(self.folder / "params" / part, f"tensor {path} differs from report.json")

    def _chunks(
        self, part: str, shardings: Params | None = None, below: tuple[str, ...] = ()
    ) -> Iterator[dict[str, jax.Array]]:
        """Yields the wanted parameters, flat and chunk by chunk; chunks without any are not opened."""
        folder = self.folder / "params" / part
        prefix, here = "".join(f"{name}/" for name in below), SingleDeviceSharding(jax.local_devices()[0])
        places = flatten(shardings) if shardings else {}
        chunks: dict[int, Params] = {}
        # From the report, not the module: tracing a thousand layers takes longer than reading them.
        for row in _rows(self.report, part):
            if row["path"].startswith(prefix):
                sharding = places[row["path"].removeprefix(prefix)] if shardings else here
                leaf = jax.ShapeDtypeStruct(row["shape"], row["dtype"], sharding=sharding)
                chunks.setdefault(row["chunk"], {})[row["path"]] = leaf
        if below and not chunks:
            raise CheckpointError(f"{folder} has no parameters below {prefix}: report.json lists the paths that it has")
        if exported.is_exported(self.report):
            read = exported.read_files(self.folder, part, chunks)
        else:
            read = read_chunks(folder, chunks)
        for found in read:
            yield {path.removeprefix(prefix): found.pop(path) for path in list(found)}


def open_pretrained(folder: str | Path, verify: bool = False) -> Pretrained:
    """Opens a pretrained folder; `verify` also reads all weights and compares their hashes.

    The hashes of config.json and the tokenizers are always compared, those of a part when it is read.

    Raises CheckpointError if it is missing, incomplete or corrupt, ConfigError if its config.json is not valid.
    """
    folder = Path(folder)
    report = read_report(folder)
    places = () if exported.is_exported(report) else [f"params/{part}" for part in PARTS]
    missing = [name for name in ("config.json", *places) if not (folder / name).exists()]
    if missing:
        raise _no_folder(folder, missing[0])
    for name, wanted in report["files"].items():
        if not (folder / name).is_file() or _sha256((folder / name).read_bytes()) != wanted:
            raise CheckpointError(
                f"{folder / name} is missing or was changed since report.json was written: make the folder again"
            )
    if exported.is_exported(report):
        report["tensors"] = exported.tensor_rows(folder)
    tokenizers = {name: load_tokenizer(folder / f"tokenizer_{name}", name) for name in MODALITIES}
    pretrained = Pretrained(folder, load_config_json(folder / "config.json"), tokenizers, report)
    if verify:
        pretrained.verify()
    return pretrained


def read_report(folder: Path) -> dict[str, Any]:
    """Reads report.json of a pretrained folder; raises CheckpointError if it is missing, corrupt or too old."""
    path = folder / "report.json"
    if not path.is_file():
        raise _no_folder(folder, path.name)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    wanted = exported.VERSION if isinstance(report, dict) and exported.is_exported(report) else REPORT_VERSION
    if not isinstance(report, dict) or report.get("version") != wanted:
        raise CheckpointError(f"{path} is of another version than {wanted}: make it again")
    return report


def _no_folder(folder: Path, missing: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} is no pretrained folder ({missing} is missing): make one with con360av init, or convert one"
    )


def base_hash(folder: str | Path) -> str:
    """sha256 of report.json, which holds the hashes of all other files; raises CheckpointError if it is missing."""
    path = Path(folder) / "report.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is no pretrained folder (report.json is missing)")
    return _sha256(path.read_bytes())


def write_pretrained(
    folder: str | Path,
    config: Config,
    parts: Iterable[tuple[str, Params]],
    tokenizers: Mapping[str, TextTokenizer],
    origin: str,
    describe: Callable[[str, str], Mapping[str, object]] = lambda part, path: {},
    trained: Sequence[Mapping[str, object]] = (),
) -> None:
    """Writes a pretrained folder atomically, part by part.

    A part's leaves are arrays, or functions that return one: these are called in the order of their paths, and
    their results are held until a chunk of CHUNK_BYTES is full and written.
    `describe(part, path)` returns further fields of a tensor in report.json; `trained` describes the runs of
    pretraining that parts come from.
    Raises CheckpointError if `folder` exists or cannot be written; then nothing is left behind.
    """
    folder = Path(folder)
    refuse_existing(folder)
    rows: list[dict[str, object]] = []
    totals: dict[str, dict[str, int]] = {}
    with replacing(folder, CheckpointError) as aside, ExitStack() as on_failure:
        on_failure.callback(_remove, aside)
        aside.mkdir()
        with ocp.StandardCheckpointer() as checkpointer:
            for part, params in parts:
                flat = flatten(params)
                # Otherwise the whole part stays in memory until the next one is read.
                del params
                totals[part] = {"tensors": len(flat), "parameters": 0}
                for number, chunk in enumerate(full_chunks(flat)):
                    totals[part]["parameters"] += sum(leaf.size for leaf in chunk.values())
                    rows += [{**_row(part, number, path, leaf), **describe(part, path)} for path, leaf in chunk.items()]
                    save_chunk(checkpointer, aside / "params" / part / str(number), unflatten(chunk), folder)
                    chunk.clear()  # `del` is not enough: enumerate keeps a reference while the next one is read.
        for checkpoint in sorted((aside / "params").iterdir()):
            hashes = {name: file_sha256(checkpoint / name) for name in files_below(checkpoint)}
            write_text(checkpoint.with_suffix(".json"), json.dumps(hashes, indent=1) + "\n")
        for name in MODALITIES:
            tokenizers[name].save_pretrained(aside / f"tokenizer_{name}")
        save_config(config, aside / "config.json")
        _write_report(aside, rows, totals, origin, trained)
        on_failure.pop_all()


def _remove(folder: Path) -> None:
    # After a failure Orbax's threads still write files for a while, longer on a busy machine.
    gone = 0
    while gone < 40:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
        gone = 0 if folder.exists() else gone + 1


def refuse_existing(folder: Path) -> None:
    """Raises CheckpointError if `folder` exists."""
    if folder.exists():
        raise CheckpointError(f"{folder} exists already: remove it or choose another folder")


def _row(part: str, chunk: int, path: str, leaf: np.ndarray) -> dict[str, object]:
    return {
        "part": part,
        "chunk": chunk,
        "path": path,
        "shape": list(leaf.shape),
        "dtype": leaf.dtype.name,
        "sha256": _sha256(leaf.tobytes()),
    }


def _write_report(
    folder: Path,
    rows: list[dict[str, object]],
    totals: dict[str, dict[str, int]],
    origin: str,
    trained: Sequence[Mapping[str, object]],
) -> None:
    kept = [folder / "config.json", *sorted(path for path in folder.glob("tokenizer_*/*"))]
    report = {
        "version": REPORT_VERSION,
        "origin": origin,
        **({"trained": list(trained)} if trained else {}),
        "totals": totals,
        "files": {path.relative_to(folder).as_posix(): _sha256(path.read_bytes()) for path in kept},
        "tensors": rows,
    }
    write_text(folder / "report.json", json.dumps(report, indent=1) + "\n")


def _rows(report: Mapping[str, object], part: str) -> list[dict]:
    rows = report["tensors"]
    return [row for row in rows if row["part"] == part] if isinstance(rows, list) else []


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
