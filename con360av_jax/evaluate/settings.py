"""Settings of an evaluation's clips: settings.json, which binds a folder to one model, dataset and sampler."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cattrs.errors import BaseValidationError

from con360av_jax.base.exported import require_average
from con360av_jax.base.pretrained import base_hash, read_report
from con360av_jax.config.files import changes, config_hash, load_config_json, structure, unstructure
from con360av_jax.config.settings import Config, Dtype, PerModality, SamplerConfig
from con360av_jax.data.schema import check_matches
from con360av_jax.data.source import MANIFEST, Dataset
from con360av_jax.errors import ConfigError, DatasetError, some
from con360av_jax.evaluate.selection import Noise
from con360av_jax.runtime.files import write_text
from con360av_jax.runtime.packaged import find_model
from con360av_jax.train import checkpoint, run_folder

SETTINGS = "settings.json"
# The hash of all settings changes with each setting that is added, and those that matter stand beside it.
INFORMATIVE = (".path", ".config_hash")
EVALUATIONS = "evaluation"
"""Folder of evaluations inside a run."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Identity of the model that generates clips, known without reading its weights."""

    path: Path
    """Path for `model.load`: a pretrained folder, or RUN/checkpoints/STEP."""
    folder: Path
    """Default folder of evaluations: the run, or the pretrained folder."""
    config: Config
    step: int
    kind: str
    """Kind of weights: "moving average", "trained" or "pretrained"."""
    sha256: str
    """Hash that identifies all weight files."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Inputs from a record that the model receives; an ablation omits some."""

    saliency: bool = True
    """Saliency maps; if False, zeros, as in `model.control` without saliency."""
    basd: bool = True
    """Distance maps; if False, zeros, the value that `geometry.minmax` gives a map without contrast."""
    caption: bool = True
    """Caption; if False, "", and so is the negative caption, so that text guidance has no effect."""
    control: bool = True
    """Maps and map guidance; if False, neither, which is the audio-visual baseline."""


ABLATION = {
    "full": Conditions(),
    "without_saliency": Conditions(saliency=False),
    "without_basd": Conditions(basd=False),
    "without_caption": Conditions(caption=False),
    "without_control": Conditions(control=False),
}


@dataclass(frozen=True, kw_only=True)
class Making:
    """Everything besides its record that a generated clip depends on."""

    weights: Weights
    dataset: Dataset
    seed: int = 0
    dtype: Dtype
    """Data type that the model computes in."""
    sampler: SamplerConfig
    negative_caption: str = ""
    conditions: Conditions = field(default_factory=Conditions)
    noise: Noise = "clip"

    def settings(self, protocol: str) -> dict[str, object]:
        """Content of settings.json; paths are informative only."""
        manifest = self.dataset.folder / MANIFEST
        return {
            "protocol": protocol,
            "run": {
                "path": str(self.weights.path.resolve()),
                "step": self.weights.step,
                "weights": self.weights.kind,
                "sha256": self.weights.sha256,
                "config": self.weights.config.name,
                "config_hash": config_hash(self.weights.config),
            },
            "dataset": {
                "path": str(self.dataset.folder.resolve()),
                "manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
            },
            "seed": self.seed,
            "noise": self.noise,
            "dtype": self.dtype,
            "negative_caption": self.negative_caption,
            "conditions": asdict(self.conditions),
            "sampler": unstructure(self.sampler),
        }

    def unrecorded(self) -> dict[str, object]:
        """Settings that earlier versions did not record, with the values that they made clips with."""
        return {"negative_caption": "", "dtype": self.weights.config.train.compute_dtype}


def find_weights(path: Path, ema: bool) -> Weights:
    """Weights of a run (its newest intact checkpoint), of RUN/checkpoints/STEP, or of a pretrained folder.

    The name of a packaged model stands for its folder.

    Raises CheckpointError if there are none or they are corrupt.
    """
    path = find_model(path)
    if (path / "report.json").is_file():
        config, report = load_config_json(path / "config.json"), read_report(path)
        require_average(path, report, ema)
        step, digest = report.get("step", 0), base_hash(path)
        return Weights(path=path, folder=path, config=config, step=step, kind="pretrained", sha256=digest)
    run, step_folder = checkpoint.locate(path, ("ema" if ema else "trainable", "progress"))
    opened = run_folder.open_run(run)
    digest = hashlib.sha256((step_folder / checkpoint.HASHES).read_bytes() + opened.base_sha256.encode())
    return Weights(
        path=step_folder,
        folder=run,
        config=opened.config,
        step=int(step_folder.name),
        kind="moving average" if ema else "trained",
        sha256=digest.hexdigest(),
    )


def keep_to(
    folder: Path, settings: dict[str, object], write: bool = True, unrecorded: Mapping[str, object] | None = None
) -> None:
    """Binds `folder` to these settings, or checks that it already is; `unrecorded` holds for what its file lacks.

    Raises ConfigError with all differences if the folder belongs to other settings or is no evaluation.
    """
    path = folder / SETTINGS
    settings = json.loads(json.dumps(settings))
    if path.is_file():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): delete the folder and evaluate again") from error
        if not isinstance(there, dict):
            raise ConfigError(f"{path} is corrupt: delete the folder and evaluate again")
        there = _complete({**(unrecorded or {}), **there})
        if found := [line for name, line in changes(there, settings).items() if not name.endswith(INFORMATIVE)]:
            raise ConfigError(
                f"{folder} holds clips that were made with other settings: {some(found, '; ')}; give those "
                "settings again, another --out, or delete that folder"
            )
        return
    if not write:  # process 0 writes it
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty and no evaluation (it has no {SETTINGS}): give another --out")
    write_text(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def _complete(settings: dict[str, object]) -> dict[str, object]:
    """Settings with today's defaults for those of the sampler that did not exist when they were recorded."""
    try:
        return {**settings, "sampler": unstructure(structure(settings["sampler"], SamplerConfig))}
    except (KeyError, BaseValidationError):
        return settings


def default_folder(weights: Weights, given: Path, protocol: str) -> Path:
    """Default folder RUN/evaluation/PROTOCOL, with the step appended if the user gave a checkpoint.

    Raises ConfigError for a pretrained folder, which must not change.
    """
    if weights.kind == "pretrained":
        raise ConfigError(f"{given} is a pretrained folder, not a run: give the folder of the evaluation with --out")
    named = given.resolve() == weights.path.resolve()
    return weights.folder / EVALUATIONS / (f"{protocol}-{weights.step}" if named else protocol)


def require_pair(weights: Weights, dataset: Dataset) -> None:
    """Raises DatasetError unless the dataset's records provide conditions and targets for the model."""
    fields = dataset.manifest.fields
    if missing := [name for name in ("video", "sound") if name not in fields]:
        raise DatasetError(
            f"{dataset.folder} has no {' and no '.join(missing)} to compare with: preprocess it again with --keep-raw"
        )
    if missing := [name for name in ("saliency", "viewpoint") if name not in fields]:
        raise DatasetError(f"{dataset.folder} has no {' and no '.join(missing)}: preprocess it again")
    check_matches(dataset.manifest, weights.config)


def scales(text: str) -> PerModality[float]:
    """Guidance scales from text: one number for both modalities, or audio=NUMBER,video=NUMBER.

    Raises ConfigError for other text.
    """
    try:
        parts = text.split(",") if "=" in text else [f"audio={text}", f"video={text}"]
        found: dict[str, float] = {}
        for part in parts:
            name, _, number = part.partition("=")
            found[name] = float(number)
        if not all(map(math.isfinite, found.values())):
            raise ValueError(f"{text} is not finite")
        return PerModality(**found)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"a guidance scale of {text!r}: give one number, or audio=NUMBER,video=NUMBER") from error


def sampler_of(config: SamplerConfig, steps: int | None, text: str, maps: str, saliency: str = "") -> SamplerConfig:
    """The config's sampler with the given steps and scales; raises ConfigError as `scales` does."""
    config = replace(config, text_guidance=scales(text)) if text else config
    config = replace(config, map_guidance=scales(maps)) if maps else config
    if saliency:
        found = scales(saliency)
        config = replace(config, saliency_guidance=PerModality(audio=found.audio, video=found.video))
    return config if steps is None else replace(config, steps=steps)
