"""The frozen base on disk: every network's weights, both tokenizers, the config and a report with a hash per tensor.

FOLDER/config.json              all settings
FOLDER/params/PART/CHUNK/       Orbax checkpoints of at most 1 GiB; a part opens alone and on any mesh
FOLDER/params/PART.json         sha256 of every file of a part's checkpoints
FOLDER/tokenizer_{audio,video}/ transformers' files
FOLDER/report.json              per tensor: part, chunk, path, shape, dtype, sha256; totals; sha256 of every other file
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import SingleDeviceSharding

from con360av_jax.codecs import Codecs, codec_factory
from con360av_jax.config import Config
from con360av_jax.config_io import load_config_json, save_config, write_text
from con360av_jax.errors import CheckpointError
from con360av_jax.models import functional
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.models.joint import JointModel
from con360av_jax.shapes import MODALITIES
from con360av_jax.tokenizer import TextTokenizer, load_tokenizer, tokenise

__all__ = ["PARTS", "Codecs", "Pretrained", "base_hash", "open_pretrained", "tokenise",
           "write_pretrained"]  # fmt: skip

PARTS = ("joint", "vae_audio", "vae_video", "text_audio", "text_video", "vocoder")
REPORT_VERSION = 2
CHUNK_BYTES = 1 << 30


def part_factory(part: str, config: Config) -> Callable[[nnx.Rngs], nnx.Module]:
    """What builds the network of `part` (one of PARTS) with float32 parameters."""
    if part == "joint":
        return lambda rngs: JointModel(config.model, rngs=rngs)
    return codec_factory(part, config.model)


@dataclass(frozen=True)
class Pretrained:
    """An opened pretrained folder; weights are read when asked for."""

    folder: Path
    config: Config
    tokenizers: Mapping[str, TextTokenizer]
    """By modality: "audio" is CLAP's, "video" CLIP's."""
    report: Mapping[str, object] = field(repr=False)

    def params(self, part: str, shardings: Params | None = None) -> Params:
        """Reads one of PARTS, straight into `shardings` (a nested dict like the parameters) if given.

        Raises CheckpointError if the part is missing or damaged.
        """
        path = self.folder / "params" / part
        self._require_intact(path)
        places = flatten(shardings) if shardings else {}
        here = SingleDeviceSharding(jax.devices()[0])
        chunks: dict[int, dict[str, jax.ShapeDtypeStruct]] = {}
        # From the report, not the module: tracing a thousand layers takes longer than reading them.
        for row in _rows(self.report, part):
            sharding = places[row["path"]] if shardings else here
            leaf = jax.ShapeDtypeStruct(row["shape"], row["dtype"], sharding=sharding)
            chunks.setdefault(row["chunk"], {})[row["path"]] = leaf
        found: Params = {}
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                for number, wanted in chunks.items():
                    found |= flatten(checkpointer.restore((path / str(number)).resolve(), unflatten(wanted)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is missing or damaged ({_first_line(error)}): make or convert the pretrained folder again"
            ) from error
        return unflatten(found)

    def verify(self) -> None:
        """Reads all weights and compares them with report.json; raises CheckpointError naming the first difference."""
        for part in PARTS:
            where = self.folder / "params" / part
            hashes = {row["path"]: row["sha256"] for row in _rows(self.report, part)}
            for path, leaf in flatten(self.params(part)).items():
                if _sha256(np.asarray(leaf).tobytes()) != hashes[path]:
                    raise CheckpointError(
                        f"{where}: tensor {path} differs from report.json: make or convert the folder again"
                    )

    def _require_intact(self, checkpoint: Path) -> None:
        # Orbax answers damaged bytes with exceptions of every kind, so it is not shown any.
        listing = checkpoint.with_suffix(".json")
        wanted = json.loads(listing.read_text(encoding="utf-8")) if listing.is_file() else None
        if wanted is None or wanted != _file_hashes(checkpoint):
            raise CheckpointError(f"{checkpoint} is damaged: make or convert the pretrained folder again")


def open_pretrained(folder: str | Path, verify: bool = False) -> Pretrained:
    """Opens a pretrained folder; `verify` also reads all weights and compares their hashes.

    The hashes of config.json and the tokenizers are always compared, a part's files when it is read.

    Raises CheckpointError if it is missing, incomplete or damaged, ConfigError if its config.json is not valid.
    """
    folder = Path(folder)
    missing = [name for name in ("report.json", "config.json") if not (folder / name).is_file()]
    missing += [f"params/{part}" for part in PARTS if not (folder / "params" / part).is_dir()]
    if missing:
        raise CheckpointError(
            f"{folder} is no pretrained folder ({missing[0]} is missing): make one with con360av init, or convert one"
        )
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder / 'report.json'} is not JSON: {error}") from error
    if not isinstance(report, dict) or report.get("version") != REPORT_VERSION:
        raise CheckpointError(f"{folder / 'report.json'} is of another version than {REPORT_VERSION}: make it again")
    for name, wanted in report["files"].items():
        if not (folder / name).is_file() or _sha256((folder / name).read_bytes()) != wanted:
            raise CheckpointError(
                f"{folder / name} is missing or was changed since report.json was written: make the folder again"
            )
    tokenizers = {name: load_tokenizer(folder / f"tokenizer_{name}", name) for name in MODALITIES}
    pretrained = Pretrained(folder, load_config_json(folder / "config.json"), tokenizers, report)
    if verify:
        pretrained.verify()
    return pretrained


def base_hash(folder: str | Path) -> str:
    """sha256 of report.json, which holds the hash of all else; raises CheckpointError if there is none."""
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
) -> None:
    """Writes a pretrained folder aside and moves it into place once it is complete; parts are written one by one.

    `describe(part, path)` gives what report.json says of a tensor besides its shape, dtype and hash.
    Raises CheckpointError if `folder` exists or cannot be written; then nothing of it is left.
    """
    folder = Path(folder)
    refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    rows: list[dict[str, object]] = []
    totals: dict[str, dict[str, int]] = {}
    try:
        aside.mkdir()
        with ocp.StandardCheckpointer() as checkpointer:
            for part, params in parts:
                flat = flatten(params)
                totals[part] = {"tensors": len(flat), "parameters": functional.count(params)}
                # Else the part stands in memory as a whole until the next one does.
                del params
                for number, paths in enumerate(_chunks(flat)):
                    chunk = {path: np.asarray(flat.pop(path)) for path in paths}
                    rows += [{**_row(part, number, path, leaf), **describe(part, path)} for path, leaf in chunk.items()]
                    _save(checkpointer, aside / "params" / part / str(number), unflatten(chunk), folder)
                    del chunk
        for checkpoint in sorted((aside / "params").iterdir()):
            write_text(checkpoint.with_suffix(".json"), json.dumps(_file_hashes(checkpoint), indent=1) + "\n")
        for name in MODALITIES:
            tokenizers[name].save_pretrained(aside / f"tokenizer_{name}")
        save_config(config, aside / "config.json")
        _write_report(aside, rows, totals, origin)
        os.replace(aside, folder)
    finally:
        if aside.exists():
            _remove(aside)


def _save(checkpointer: ocp.StandardCheckpointer, path: Path, chunk: Params, folder: Path) -> None:
    try:
        checkpointer.save(path.resolve(), chunk)
        checkpointer.wait_until_finished()
    except (OSError, ValueError, RuntimeError) as error:
        # Orbax's storage layer answers a full disk with any of these.
        raise CheckpointError(f"{folder} cannot be written: {_first_line(error)}") from error


def _remove(folder: Path) -> None:
    # After a failure Orbax's threads still write for a moment and put files back.
    gone = 0
    while gone < 10:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
        gone = 0 if folder.exists() else gone + 1


def refuse_existing(folder: Path) -> None:
    """Raises CheckpointError if there is anything at `folder`."""
    if folder.exists():
        raise CheckpointError(f"{folder} exists already: remove it or choose another folder")


def _chunks(flat: Params) -> list[list[str]]:
    """Paths in order, cut where a chunk would hold more than CHUNK_BYTES: Orbax copies what it writes."""
    chunks: list[list[str]] = [[]]
    size = 0
    for path in sorted(flat):
        if chunks[-1] and size + flat[path].nbytes > CHUNK_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(path)
        size += flat[path].nbytes
    return chunks


def _row(part: str, chunk: int, path: str, leaf: np.ndarray) -> dict[str, object]:
    return {
        "part": part,
        "chunk": chunk,
        "path": path,
        "shape": list(leaf.shape),
        "dtype": leaf.dtype.name,
        "sha256": _sha256(leaf.tobytes()),
    }


def _write_report(folder: Path, rows: list[dict[str, object]], totals: dict[str, dict[str, int]], origin: str) -> None:
    kept = [folder / "config.json", *sorted(path for path in folder.glob("tokenizer_*/*"))]
    report = {
        "version": REPORT_VERSION,
        "origin": origin,
        "totals": totals,
        "files": {path.relative_to(folder).as_posix(): _sha256(path.read_bytes()) for path in kept},
        "tensors": rows,
    }
    write_text(folder / "report.json", json.dumps(report, indent=1) + "\n")


def _rows(report: Mapping[str, object], part: str) -> list[dict]:
    rows = report["tensors"]
    return [row for row in rows if row["part"] == part] if isinstance(rows, list) else []


def _file_hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0][:160]
