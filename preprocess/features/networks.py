"""What a network of a protocol is to an extraction: the parts it makes, their cards, and its rows of a clip."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from con360av_jax.errors import CheckpointError, ConfigError
from con360av_jax.evaluate.features import FeatureCard, Kind, Rows
from con360av_jax.evaluate.protocols import Protocol, SaliencyProtocol, SoundProtocol, VideoProtocol, parts
from con360av_jax.runtime.provenance import file_sha256, package_version
from preprocess.features.material import PICTURE_SETTINGS, SOUND_SETTINGS, Clip
from preprocess.features.sounds import chosen

ModelName: TypeAlias = Literal["fastgaze", "yamnet", "tempsal", "i3d", "clap"]
Side: TypeAlias = Literal["target", "generated"]
Found: TypeAlias = Mapping[str, "Rows | str"]
"""By part: rows, or why there are none."""

MODELS: dict[str, ModelName] = {
    "i3d_torchscript": "i3d",
    "LAION-CLAP": "clap",
    "TempSAL": "tempsal",
    "FastGaze": "fastgaze",
    "YAMNet": "yamnet",
}
"""By how a protocol's name of an extractor begins."""
PACKAGES: dict[str, tuple[str, ...]] = {
    "pictures": ("con360av-jax", "numpy", "av", "torch"),
    "sound": ("con360av-jax", "numpy", "av", "scipy"),
    "i3d": (),
    "tempsal": ("pillow",),
    "fastgaze": ("opencv-python-headless",),
    "clap": ("torch", "transformers"),
    "yamnet": ("ai-edge-litert",),
}
# What a protocol says that changes distances, not features, or that a card says elsewhere.
_OF_DISTANCES = ("covariance", "infinity_points", "infinity_smallest", "weighting", "epsilon", "frames", "extractor")


@dataclass(frozen=True, kw_only=True)
class Network:
    """What one network makes of a clip."""

    name: str
    cards: Mapping[str, FeatureCard]
    """By part."""
    reads: Literal["pictures", "sound"]
    rows: Callable[[Clip], Found]
    """Looks at one clip at a time, so that no clip's numbers depend on the clips beside it; may raise MediaError."""
    frames_per_second: float = 0.0
    """That pictures must have; 0: any."""
    side: str = ""
    """Which side the rows are of, where that makes a difference."""
    most: int = 0
    """Clips that are used; 0: all."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which networks, from which files."""

    protocol: Protocol
    parts: tuple[str, ...]
    weights: Mapping[str, Path]
    side: Side | None = None
    device: str = "cpu"
    allow_code: bool = False


def model_of(protocol: Protocol, part: str) -> ModelName:
    """The network that makes a part."""
    if part in ("sound", "classes"):
        settings = protocol.sound
    else:
        settings = protocol.saliency if part == "saliency" else protocol.video
    if settings is None or part not in parts(protocol):
        known = ", ".join(parts(protocol))
        raise ConfigError(f"protocol {protocol.name} has no part {part!r}: give one of {known}")
    return chosen(MODELS, settings.extractor, "network")


def wanted_parts(protocol: Protocol, named: Sequence[str], models: Sequence[str]) -> tuple[str, ...]:
    """The parts of a protocol that are asked for by name and by network; nothing asked for means all.

    Raises ConfigError for a part or network that the protocol does not have.
    """
    by_part = {part: model_of(protocol, part) for part in (*parts(protocol), *named)}
    for model in models:
        if model not in by_part.values():
            known = ", ".join(dict.fromkeys(by_part.values()))
            raise ConfigError(f"protocol {protocol.name} does not use {model}: give one of {known}")
    found = tuple(
        part for part in parts(protocol) if (not named or part in named) and (not models or by_part[part] in models)
    )
    if not found:
        raise ConfigError(f"no part of protocol {protocol.name} is both in {named} and of {models}: leave one out")
    return found


def weights_digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of its weights' and settings' names and SHA-256."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".safetensors", ".bin"))
        text = "".join(f"{file.name} {weights_digest(file)}\n" for file in files)
        return hashlib.sha256(text.encode()).hexdigest()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file or folder; check --weights")
    return file_sha256(path)


def make_card(
    wanted: Wanted,
    model: ModelName,
    kind: Kind,
    protocol: VideoProtocol | SoundProtocol | SaliencyProtocol,
    more: Mapping[str, object],
) -> FeatureCard:
    """A card that holds all that the protocol says about features, and what is done beyond its words."""
    said = {name: value for name, value in asdict(protocol).items() if name not in _OF_DISTANCES}
    read: Mapping[str, object] = SOUND_SETTINGS if kind == "sound" else PICTURE_SETTINGS
    packages = {*PACKAGES["sound" if kind == "sound" else "pictures"], *PACKAGES[model]}
    return FeatureCard(
        kind=kind,
        model=protocol.extractor,
        weights_sha256=weights_digest(wanted.weights[model]),
        # As it comes back from its file.
        settings=json.loads(json.dumps({**said, **read, **more})),
        packages={name: package_version(name) for name in sorted(packages)},
    )
