"""Networks as an extraction uses them: the parts that each makes, their feature cards, and its rows of a clip."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from con360av_jax.errors import CheckpointError, ConfigError
from con360av_jax.evaluate.features import FeatureCard, Kind, Rows
from con360av_jax.evaluate.protocols import (
    MODELS,
    AudioProtocol,
    ModelName,
    Protocol,
    SaliencyProtocol,
    VideoProtocol,
    parts,
)
from con360av_jax.runtime.provenance import file_sha256, package_version
from preprocess.features.audio import chosen
from preprocess.features.material import AUDIO_SETTINGS, VIDEO_SETTINGS, Clip

Side: TypeAlias = Literal["target", "generated"]
Found: TypeAlias = Mapping[str, "Rows | str"]
"""Rows by part, or the reason why there are none."""

PACKAGES: dict[str, tuple[str, ...]] = {
    "video": ("con360av-jax", "numpy", "av", "torch"),
    "audio": ("con360av-jax", "numpy", "av", "scipy"),
    "i3d": (),
    "tempsal": ("pillow",),
    "fastgaze": ("opencv-python-headless",),
    "clap": ("torch", "transformers"),
    "yamnet": ("ai-edge-litert",),
}
# Settings of a protocol that change distances rather than features, or that a card states elsewhere.
_OF_DISTANCES = ("covariance", "infinity_points", "infinity_smallest", "weighting", "epsilon", "frames", "extractor")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network that turns clips into rows of one or more parts."""

    name: str
    cards: Mapping[str, FeatureCard]
    """Feature card of each part."""
    reads: Literal["video", "audio"]
    rows: Callable[[Clip], Found]
    """Rows of one clip, which depend on no other clip; may raise MediaError."""
    frames_per_second: float = 0.0
    """Frame rate that videos must have; 0 accepts any."""
    side: str = ""
    """"target" or "generated" if rows depend on the side, else empty."""
    most: int = 0
    """Largest number of clips that are used; 0 means all."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Wanted parts of a protocol and the weight files of their networks."""

    protocol: Protocol
    parts: tuple[str, ...]
    weights: Mapping[str, Path]
    side: Side | None = None
    device: str = "cpu"
    allow_code: bool = False


def model_of(protocol: Protocol, part: str) -> ModelName:
    """Name of the network that makes a part; raises ConfigError if the protocol has no such part."""
    if part in ("sound", "classes"):
        settings = protocol.sound
    else:
        settings = protocol.saliency if part == "saliency" else protocol.video
    if settings is None or part not in parts(protocol):
        known = ", ".join(parts(protocol))
        raise ConfigError(f"protocol {protocol.name} has no part {part!r}: give one of {known}")
    return chosen(MODELS, settings.extractor, "network")


def wanted_parts(protocol: Protocol, named: Sequence[str], models: Sequence[str]) -> tuple[str, ...]:
    """The parts of a protocol that are selected by name and by network; without a selection, all parts.

    Raises ConfigError for a part or network that the protocol does not have, and for a protocol of judges.
    """
    if protocol.judge is not None:
        raise ConfigError(f"protocol {protocol.name} needs no features from here: con360av evaluate judges the clips")
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
    """SHA-256 of a file, or of the names and SHA-256 of a folder's weight and settings files."""
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
    protocol: VideoProtocol | AudioProtocol | SaliencyProtocol,
    more: Mapping[str, object],
) -> FeatureCard:
    """A feature card: the protocol's settings that determine features, and `more` about the processing."""
    said = {name: value for name, value in asdict(protocol).items() if name not in _OF_DISTANCES}
    read: Mapping[str, object] = AUDIO_SETTINGS if kind == "sound" else VIDEO_SETTINGS
    packages = {*PACKAGES["audio" if kind == "sound" else "video"], *PACKAGES[model]}
    return FeatureCard(
        kind=kind,
        model=protocol.extractor,
        weights_sha256=weights_digest(wanted.weights[model]),
        # As JSON gives it back, so that it compares equal with the card read from its file.
        settings=json.loads(json.dumps({**said, **read, **more})),
        packages={name: package_version(name) for name in sorted(packages)},
    )
