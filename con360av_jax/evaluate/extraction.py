"""Features of generated clips and their targets: made by `python -m preprocess features`, a program of its own.

This package knows no PyTorch: it starts that program, or reads folders that it wrote elsewhere.
"""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from con360av_jax.errors import ConfigError, MetricError
from con360av_jax.evaluate.features import CARD, FeatureSet, open_features
from con360av_jax.evaluate.generate import GENERATED, TARGETS
from con360av_jax.evaluate.protocols import Protocol, parts
from con360av_jax.evaluate.selection import EvaluatedClip
from con360av_jax.runtime.files import replacing
from con360av_jax.runtime.provenance import file_sha256

FEATURES = "features"
ELSEWHERE = "or extract on another machine and give --features GENERATED TARGETS"
# The side as the other program calls it: of a longer target it may take another part than of a generated clip.
_SIDES = {GENERATED: "generated", TARGETS: "target"}
Pair = tuple[FeatureSet, FeatureSet]
"""Of generated clips and of their targets."""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How features are made, or where they lie."""

    weights: Mapping[str, Path] = field(default_factory=dict)
    """Files by network: fastgaze, yamnet, tempsal, i3d, clap."""
    device: str = "cpu"
    allow_code: bool = False
    given: tuple[Path, Path] | None = None
    """Folders of generated clips and of targets that were extracted elsewhere."""

    def check(self) -> None:
        """Raises ConfigError if something that is named does not exist, before hours go into generating."""
        for name, path in self.weights.items():
            if not path.exists():
                raise ConfigError(f"--weights {name}={path}: no such file; give the file's path")
        for folder in self.given or ():
            if not folder.is_dir():
                raise ConfigError(f"--features {folder}: no such folder; give what python -m preprocess features wrote")
        if self.given is None and importlib.util.find_spec("preprocess") is None:
            raise ConfigError(f"preprocess is not installed: pip install 'con360av-jax[torch,features]', {ELSEWHERE}")


def weights_by_name(given: Sequence[str]) -> dict[str, Path]:
    """`--weights NAME=PATH ...`; raises ConfigError for anything else or one name twice."""
    found: dict[str, Path] = {}
    for text in given:
        name, mark, path = text.partition("=")
        if not mark or not name or not path:
            raise ConfigError(f"--weights {text}: give NAME=PATH, such as yamnet=models/yamnet.tflite")
        if name in found:
            raise ConfigError(f"--weights {name} is given twice: {found[name]} and {path}")
        found[name] = Path(path)
    return found


def extract(
    folder: Path, clips: Sequence[EvaluatedClip], protocol: Protocol, extraction: Extraction
) -> dict[str, Pair]:
    """Features of the protocol's parts, extracted where they are not there yet; a part without usable clips is absent.

    Raises MetricError if extraction fails, in its own words, or what it wrote is damaged.
    """
    wanted = parts(protocol)
    sides = {side: folder / FEATURES / side for side in (GENERATED, TARGETS)}
    for number, (side, features) in enumerate(sides.items()):
        if extraction.given is not None:
            for part in wanted:
                open_features(extraction.given[number] / part)
            take_features(extraction.given[number], features)
        elif not all(_fits(features / part, folder / side, clips, extraction) for part in wanted):
            run_extractor(folder / side, features, _SIDES[side], protocol, extraction)
            for card in features.glob(f"*/{CARD}"):
                card.touch()  # it speaks of the files as they are, also where a newer one has the same content
    return {
        part: (open_features(sides[GENERATED] / part), open_features(sides[TARGETS] / part))
        for part in wanted
        if all((features / part).is_dir() for features in sides.values())
    }


def take_features(source: Path, features: Path) -> None:
    """Puts a copy of all parts at `features`, as hard links where the file system can."""
    if source.resolve() == features.resolve():
        return
    with replacing(features, MetricError) as aside:
        shutil.copytree(source, aside, copy_function=_link)
        shutil.rmtree(features, ignore_errors=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _fits(features: Path, videos: Path, clips: Sequence[EvaluatedClip], extraction: Extraction) -> bool:
    """Whether a finished part speaks of every clip as it is, and was made with the weights that are given, if any."""
    if not (features / CARD).is_file():
        return False
    found = open_features(features)
    known = {clip.clip for clip in found.clips} | {str(line.get("clip", "")) for line in found.rejected}
    made = (features / CARD).stat().st_mtime_ns
    hashes = {file_sha256(path) for path in extraction.weights.values() if path.is_file()}
    return (not hashes or found.card.weights_sha256 in hashes) and all(
        clip.clip in known and (videos / f"{clip.clip}.mp4").stat().st_mtime_ns <= made for clip in clips
    )


def command(videos: Path, features: Path, side: str, protocol: Protocol, extraction: Extraction) -> list[str]:
    """The other program's command line."""
    weights = [f"{name}={path}" for name, path in extraction.weights.items()]
    return [
        *(sys.executable, "-m", "preprocess", "features"),
        *("--videos", str(videos), "--output", str(features), "--protocol", protocol.name, "--side", side),
        *("--device", extraction.device),
        *(("--weights", *weights) if weights else ()),
        *(("--allow-code",) if extraction.allow_code else ()),
    ]


def run_extractor(videos: Path, features: Path, side: str, protocol: Protocol, extraction: Extraction) -> None:
    """Starts the other program and waits for it; raises MetricError with what it said if it failed."""
    told = command(videos, features, side, protocol, extraction)
    features.parent.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    with (features.parent / f".{features.name}.lock").open("w") as lock:
        # The program inherits the lock: it may outlive this one if that is killed, and two must not write together.
        with console.status(f"waiting for another program that extracts features of {videos.name} clips"):
            fcntl.flock(lock, fcntl.LOCK_EX)
        with console.status(f"extracting features of {videos.name} clips"):
            finished = subprocess.run(told, capture_output=True, text=True, check=False, pass_fds=(lock.fileno(),))
    if finished.returncode:
        raise MetricError(f"features of {videos} were not extracted: {_complaint(finished.stderr)}")


def _complaint(errors: str) -> str:
    """The last line that says something, without the other program's name; the whole of what its user would read."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("preprocess: ")), lines[-1] if lines else "")
    if not said:
        return "it ended without a word; run python -m preprocess features by hand"
    said = said.removeprefix("preprocess: ").removeprefix("error: ")
    return f"{said}; {ELSEWHERE}" if "pip install" in said else said
