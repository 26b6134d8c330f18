"""Features of generated clips and targets, extracted by `python -m preprocess features` in a separate process.

That process needs PyTorch, which this package does not import. Folders that it wrote elsewhere can be given instead.
Judges are networks of this package and run in this process (judging.py).
"""

import fcntl
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from con360av_jax.config.pretraining import JUDGES
from con360av_jax.config.settings import Config
from con360av_jax.errors import ConfigError, MetricError
from con360av_jax.evaluate.features import CARD, FeatureSet, open_features
from con360av_jax.evaluate.generate import GENERATED, TARGETS
from con360av_jax.evaluate.judges import Judge, open_judge, packaged
from con360av_jax.evaluate.judging import judge_clips
from con360av_jax.evaluate.protocols import MODELS, Protocol, models, parts
from con360av_jax.evaluate.selection import EvaluatedClip
from con360av_jax.runtime.files import link_or_copy, replacing
from con360av_jax.runtime.provenance import file_sha256

FEATURES = "features"
ELSEWHERE = "or extract on another machine and give --features GENERATED TARGETS"
# Values of the extractor's --side, which matters if targets are longer than generated clips.
_SIDES = {GENERATED: "generated", TARGETS: "target"}
Pair = tuple[FeatureSet, FeatureSet]
"""Features of the generated clips and of their targets."""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Settings of feature extraction, or folders of extracted features."""

    weights: Mapping[str, Path] = field(default_factory=dict)
    """Weight files by network: fastgaze, yamnet, tempsal, i3d, clap."""
    device: str = "cpu"
    allow_code: bool = False
    given: tuple[Path, Path] | None = None
    """Feature folders of generated clips and of targets that were extracted elsewhere."""

    def check(self) -> None:
        """Raises ConfigError for an unknown network, or if a file, folder or the extractor is missing.

        Call before generating.
        """
        for name, path in self.weights.items():
            if name not in (*MODELS.values(), *JUDGES):
                known = ", ".join((*MODELS.values(), *JUDGES))
                raise ConfigError(f"--weights {name}={path}: no such network; there are {known}")
            if not path.exists():
                raise ConfigError(f"--weights {name}={path}: no such file; give the file's path")
        for folder in self.given or ():
            if not folder.is_dir():
                raise ConfigError(f"--features {folder}: no such folder; give what python -m preprocess features wrote")
        if self.given is None and importlib.util.find_spec("preprocess") is None:
            raise ConfigError(f"preprocess is not installed: pip install 'con360av-jax[torch,features]', {ELSEWHERE}")


def require_weights(folder: Path, protocol: Protocol, extraction: Extraction) -> bool:
    """Returns whether the evaluation in `folder` has yet to extract features; raises ConfigError if weights lack."""
    wanted = [folder / FEATURES / side / part / CARD for side in _SIDES for part in parts(protocol)]
    if extraction.given is not None or all(card.is_file() for card in wanted):
        return False
    lacking = [name for name in models(protocol) if name not in extraction.weights]
    if missing := [name for name in lacking if name not in JUDGES or not packaged(name).is_file()]:
        raise ConfigError(
            f"protocol {protocol.name} needs weights of {' and '.join(missing)}: give --weights "
            f"{' '.join(f'{name}=PATH' for name in missing)}, {ELSEWHERE}"
        )
    return True


def check_networks(protocol: Protocol, extraction: Extraction) -> None:
    """Raises ConfigError with the extractor's message unless it can open all networks of the protocol.

    It takes seconds; without it, a wrong file of weights would be found when all clips are generated. Judges raise
    CheckpointError.
    """
    if protocol.judge is not None:
        _judges(extraction)
        return
    told = [*command(Path(), Path(), _SIDES[GENERATED], protocol, extraction), "--check-only"]
    with Console(stderr=True).status("opening the networks that extract features"):
        finished = subprocess.run(told, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise ConfigError(f"features cannot be extracted: {_complaint(finished.stderr)}")


def weights_by_name(given: Sequence[str]) -> dict[str, Path]:
    """Weight files by network from NAME=PATH; raises ConfigError for other text or a repeated name."""
    found: dict[str, Path] = {}
    for text in given:
        name, mark, path = text.partition("=")
        if not mark or not name or not path:
            raise ConfigError(f"--weights {text}: give NAME=PATH, such as yamnet=models/yamnet.tflite")
        if name in found:
            raise ConfigError(f"--weights {name} is given twice: {found[name]} and {path}")
        found[name] = Path(path)
    return found


def _judges(extraction: Extraction) -> dict[str, Judge]:
    return {name: open_judge(name, extraction.weights.get(name)) for name in JUDGES}


def extract(
    folder: Path, clips: Sequence[EvaluatedClip], protocol: Protocol, extraction: Extraction, config: Config
) -> dict[str, Pair]:
    """Features of the protocol's parts, extracted if they are missing or outdated.

    Parts without a usable target are absent. Raises MetricError if extraction fails or wrote corrupt features, or if a
    part has targets but no generated clip.
    """
    wanted = parts(protocol)
    sides = {side: folder / FEATURES / side for side in (GENERATED, TARGETS)}
    judges = _judges(extraction) if protocol.judge is not None and extraction.given is None else {}
    for number, (side, features) in enumerate(sides.items()):
        if extraction.given is not None:
            for part in wanted:
                open_features(extraction.given[number] / part)
            take_features(extraction.given[number], features)
        elif judges:
            judge_clips(folder, side, clips, judges, config)
        elif not all(_fits(features / part, folder / side, clips, extraction) for part in wanted):
            run_extractor(folder / side, features, _SIDES[side], protocol, extraction)
            for card in features.glob(f"*/{CARD}"):
                card.touch()  # newer than all clips, so that `_fits` accepts it
    there = [part for part in wanted if (sides[TARGETS] / part).is_dir()]
    if missing := [part for part in there if not (sides[GENERATED] / part).is_dir()]:
        raise MetricError(
            f"no generated clip has {' and no '.join(missing)} features, but targets have: python -m preprocess "
            f"features --videos {folder / GENERATED} says why"
        )
    return {part: (open_features(sides[GENERATED] / part), open_features(sides[TARGETS] / part)) for part in there}


def take_features(source: Path, features: Path) -> None:
    """Copies all parts to `features`, as hard links if the file system supports them."""
    if source.resolve() == features.resolve():
        return
    with replacing(features, MetricError) as aside:
        shutil.copytree(source, aside, copy_function=link_or_copy)
        shutil.rmtree(features, ignore_errors=True)


def _fits(features: Path, videos: Path, clips: Sequence[EvaluatedClip], extraction: Extraction) -> bool:
    """Whether a part is complete, newer than all clips, and extracted with the given weights, if any."""
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
    """Command line of the extractor."""
    weights = [f"{name}={path}" for name, path in extraction.weights.items()]
    return [
        *(sys.executable, "-m", "preprocess", "features"),
        *("--videos", str(videos), "--out", str(features), "--protocol", protocol.name, "--side", side),
        *("--device", extraction.device),
        *(("--weights", *weights) if weights else ()),
        *(("--allow-code",) if extraction.allow_code else ()),
    ]


def run_extractor(videos: Path, features: Path, side: str, protocol: Protocol, extraction: Extraction) -> None:
    """Runs the extractor; raises MetricError with its error message if it fails."""
    told = command(videos, features, side, protocol, extraction)
    features.parent.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    with (features.parent / f".{features.name}.lock").open("w") as lock:
        # The extractor inherits the lock, because it may outlive this process and two must not write at once.
        with console.status(f"waiting for another process that extracts features of {videos.name} clips"):
            fcntl.flock(lock, fcntl.LOCK_EX)
        with console.status(f"extracting features of {videos.name} clips"):
            finished = subprocess.run(told, capture_output=True, text=True, check=False, pass_fds=(lock.fileno(),))
    if finished.returncode:
        raise MetricError(f"features of {videos} were not extracted: {_complaint(finished.stderr)}")


def _complaint(errors: str) -> str:
    """Error message of the extractor: its last non-empty line, without the program's name."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("preprocess: ")), lines[-1] if lines else "")
    if not said:
        return "it ended without a message; run python -m preprocess features yourself"
    said = said.removeprefix("preprocess: ").removeprefix("error: ")
    return f"{said}; {ELSEWHERE}" if "pip install" in said else said
