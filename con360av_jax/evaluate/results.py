"""What an evaluation found: metrics.json, written once and read by the page and by comparisons."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cattrs.errors import BaseValidationError

from con360av_jax.config.files import problems, structure, unstructure
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.features import FeatureCard
from con360av_jax.runtime.files import write_text

METRICS = "metrics.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number with what it means and how sure it is."""

    name: str
    """Short and stable: "s_kl", "fad", "fad_infinity", "fvd_16", "av_align", "direction_error", ..."""
    title: str
    """What the page calls it, with its network where that is part of the meaning: "FAD (YAMNet)"."""
    unit: str
    """ "" for numbers without."""
    lower_is_better: bool
    value: float | None
    """None where it could not be computed; `note` says why."""
    low: float | None = None
    """95 % interval by drawing clips again, see bootstrap.py; None where there is none."""
    high: float | None = None
    clips: int = 0
    """That entered the number."""
    rows: int = 0
    paper: float | None = None
    """The paper's Table 1, only where protocol and data could match it."""
    target: float | None = None
    """The same quantity of the target clips themselves, where it has one: what a perfect model would reach."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """One generated clip, where it and its target lie, and what each metric says of it."""

    clip: str
    generated: str
    """File, relative to the folder of metrics.json."""
    target: str
    caption: str
    viewpoint: tuple[float, float, float, float]
    """Yaw, pitch, horizontal and vertical field of view of the middle frame, rad."""
    scores: dict[str, float]
    """By name of a metric; a metric that does not speak of this clip has no entry."""


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """A clip, or a frame of one, that a metric leaves out."""

    clip: str
    metric: str
    reason: str
    frame: int | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that metrics.json holds."""

    protocol: dict[str, object]
    """The protocol's fields (protocols.Protocol)."""
    made_from: dict[str, object]
    """Run, checkpoint, config and its hash, dataset and its manifest's hash, seed, sampler, weights: settings.json."""
    metrics: tuple[Metric, ...]
    clips: tuple[ClipScores, ...]
    exclusions: tuple[Exclusion, ...] = ()
    cards: dict[str, FeatureCard] = field(default_factory=dict)
    """By part ("saliency", "sound", ...); generated and targets have the same."""
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    schema_version: int = SCHEMA_VERSION

    def metric(self, name: str) -> Metric | None:
        """The metric of this name, if it was computed."""
        return next((metric for metric in self.metrics if metric.name == name), None)


def write_results(results: Results, folder: Path) -> Path:
    """Writes FOLDER/metrics.json in one step."""
    path = folder / METRICS
    write_text(path, json.dumps(unstructure(results), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_results(folder: str | Path) -> Results:
    """Reads what `write_results` wrote, from a folder or a metrics.json.

    Raises MetricError if it is missing, damaged or of another schema version.
    """
    path = Path(folder)
    path = path / METRICS if path.is_dir() else path
    try:
        data: Mapping[str, object] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MetricError(f"{path} cannot be read ({error}): give a folder that con360av evaluate wrote") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise MetricError(f"{path} has schema_version {version}, this program reads {SCHEMA_VERSION}: evaluate again")
    try:
        return structure(data, Results)
    except BaseValidationError as error:
        raise MetricError(f"{path} is damaged: {problems(error)}") from error
