"""The frozen base on disk: every network's weights, both tokenizers, the config and a report with a hash per tensor.

FOLDER/config.json              all settings
FOLDER/params/PART/             one Orbax checkpoint per part, so that a part opens alone and on any mesh
FOLDER/params/PART.json         sha256 of every file of that checkpoint
FOLDER/tokenizer_{audio,video}/ transformers' files
FOLDER/report.json              per tensor: part, path, shape, dtype, sha256; totals; sha256 of every other file
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

from con360av_jax.codecs import FRAMES_AT_ONCE, Codecs, codec_factory, compiled_vae, pixels
from con360av_jax.config import Config
from con360av_jax.config_io import load_config_json, save_config, write_text
from con360av_jax.errors import CheckpointError, Con360Error
from con360av_jax.models import functional
from con360av_jax.models.calibrate import calibrate
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.models.joint import JointModel
from con360av_jax.shapes import MODALITIES, latent_shapes, mel_frames
from con360av_jax.tokenizer import TextTokenizer, load_tokenizer, tokenise, train_tokenizers

__all__ = ["PARTS", "Codecs", "Pretrained", "base_hash", "create_random", "open_pretrained", "tokenise",
           "write_pretrained"]  # fmt: skip

PARTS = ("joint", "vae_audio", "vae_video", "text_audio", "text_video", "vocoder")
REPORT_VERSION = 1


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
        # From the report, not the module: tracing a thousand layers takes longer than reading them.
        shapes = unflatten(
            {row["path"]: jax.ShapeDtypeStruct(row["shape"], row["dtype"]) for row in _rows(self.report, part)}
        )
        shardings = shardings or jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), shapes)
        wanted = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )
        path = self.folder / "params" / part
        self._require_intact(path)
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                return checkpointer.restore(path.resolve(), wanted)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is missing or damaged ({_first_line(error)}): make or convert the pretrained folder again"
            ) from error

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


def create_random(folder: str | Path, config: Config, seed: int) -> Pretrained:
    """Makes a pretrained folder with random weights for every part, to train small models from nothing.

    Tokenizers are trained on captions of procedural scenes. Autoencoders are calibrated (models/calibrate.py) on smooth
    random pictures and mels, so that latents have about unit variance under the config's scaling_factor; published
    weights carry a factor that was measured for them. The same seed gives the same weights.

    Raises CheckpointError if `folder` exists, ConfigError if a vocabulary is too small.
    """

    def parts() -> Iterable[tuple[str, Params]]:
        for number, part in enumerate(PARTS):
            params = functional.init(part_factory(part, config), jax.random.fold_in(jax.random.key(seed), number))
            if part.startswith("vae_"):
                params = _calibrated(params, part, config, np.random.default_rng((seed, number)))
            yield part, params

    _refuse_existing(Path(folder))
    write_pretrained(folder, config, parts(), train_tokenizers(config, seed), origin=f"random weights, seed {seed}")
    return open_pretrained(folder)


def _calibrated(params: Params, part: str, config: Config, random: np.random.Generator) -> Params:
    modality = part.removeprefix("vae_")
    vae, latent = getattr(config.model.vae, modality), latent_shapes(config)[modality]
    if modality == "video":
        shape = (FRAMES_AT_ONCE, config.clip.height, config.clip.width, 3)
        inputs = pixels((np.clip(0.5 + 0.2 * _smooth(random, shape, 8), 0, 1) * 255).astype(np.uint8))
        latent = (FRAMES_AT_ONCE, *latent[1:])
    else:
        inputs = -5 + 2 * _smooth(random, (1, mel_frames(config), config.mel.bands, 1), 4)
        latent = (1, *latent)
    noise = random.standard_normal(latent).astype(np.float32)
    # The codecs' own compiled programs at their own shapes: the encoding that follows finds them in the cache.
    encode, decode = compiled_vae(part, config.model)
    return calibrate(params, encode, decode, inputs, noise, vae.scaling_factor)


def _smooth(random: np.random.Generator, shape: tuple[int, ...], cells: int) -> np.ndarray:
    """Noise of unit variance, float32, with about `cells` blobs along the height and the width."""
    batch, height, width, channels = shape
    coarse = random.standard_normal((batch, cells, cells, channels))
    rows, columns = (_interpolation(length, cells) for length in (height, width))
    noise = np.einsum("hi,wj,bijc->bhwc", rows, columns, coarse)
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def _interpolation(length: int, cells: int) -> np.ndarray:
    """Matrix (length, cells) that interpolates linearly between cells."""
    position = np.linspace(0, cells - 1, length)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells)))


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
    _refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    rows: list[dict[str, object]] = []
    totals: dict[str, dict[str, int]] = {}
    try:
        aside.mkdir()
        with ocp.StandardCheckpointer() as checkpointer:
            for part, params in parts:
                checkpointer.save((aside / "params" / part).resolve(), jax.tree.map(np.asarray, params))
                flat = sorted(flatten(params).items())
                rows += [{**_row(part, path, np.asarray(leaf)), **describe(part, path)} for path, leaf in flat]
                totals[part] = {"tensors": len(flat), "parameters": functional.count(params)}
                # Else two parts stand in memory at once.
                del params, flat
                checkpointer.wait_until_finished()
        for checkpoint in sorted((aside / "params").iterdir()):
            write_text(checkpoint.with_suffix(".json"), json.dumps(_file_hashes(checkpoint), indent=1) + "\n")
        for name in MODALITIES:
            tokenizers[name].save_pretrained(aside / f"tokenizer_{name}")
        save_config(config, aside / "config.json")
        _write_report(aside, rows, totals, origin)
        os.replace(aside, folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from error
    except (ValueError, RuntimeError) as error:
        # Orbax's storage layer answers a full disk with these; errors of the house are the caller's to read.
        if isinstance(error, Con360Error):
            raise
        raise CheckpointError(f"{folder} cannot be written: {_first_line(error)}") from error
    finally:
        if aside.exists():
            _remove(aside)


def _remove(folder: Path) -> None:
    # After a failure Orbax's threads still write for a moment and put files back.
    gone = 0
    while gone < 10:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
        gone = 0 if folder.exists() else gone + 1


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise CheckpointError(f"{folder} exists already: remove it or choose another folder")


def _row(part: str, path: str, leaf: np.ndarray) -> dict[str, object]:
    return {
        "part": part,
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
