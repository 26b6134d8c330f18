"""Results of an evaluation: metrics.json, which pages and comparisons read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cattrs.errors import BaseValidationError

from con360av_jax.config.files import problems, structure, unstructure
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.features import FeatureCard
from con360av_jax.runtime.files import write_text

METRICS = "metrics.json"
SCHEMA_VERSION = 1
ONE_RECORDING = "one recording has no interval"
"""Note of a metric over the clips of a single recording."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Value of one metric with its meaning and interval."""

    name: str
    """Short stable name: "s_kl", "fad", "fad_infinity", "fvd_16", "av_align", "direction_error", ..."""
    title: str
    """Title on pages, with the network if it is part of the meaning: "FAD (YAMNet)"."""
    unit: str
    """Unit of the value; "" for values without one."""
    lower_is_better: bool
    value: float | None
    """The value; None if it could not be computed, with the reason in `note`."""
    low: float | None = None
    """Lower end of the 95 % bootstrap interval over recordings; None without an interval."""
    high: float | None = None
    clips: int = 0
    """Number of clips behind the value."""
    recordings: int = 0
    """Number of recordings of these clips, which the interval draws; 0 in files of versions that drew clips."""
    rows: int = 0
    paper: float | None = None
    """Value published in Table 1 of the paper, if protocol and data match."""
    target: float | None = None
    """Value of the same metric for the target clips, which a perfect model would reach; None without one."""
    chance: float | None = None
    """Value that a model would reach whose clips have nothing to do with their conditions; None if it is not known."""
    note: str = ""

    def with_note(self, note: str) -> "Metric":
        """The metric with one more note."""
        return replace(self, note="; ".join(filter(None, [self.note, note])))


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """Files, conditions and scores of one generated clip."""

    clip: str
    generated: str
    """Path of the generated clip, relative to the folder of metrics.json."""
    target: str
    caption: str
    viewpoint: tuple[float, float, float, float]
    """Yaw, pitch, horizontal and vertical field of view of the middle frame, rad."""
    scores: dict[str, float]
    """Scores by name of the metric; metrics without a score for this clip have no entry."""


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """A clip, or a frame of a clip, that a metric excludes."""

    clip: str
    metric: str
    reason: str
    frame: int | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """Content of metrics.json."""

    protocol: dict[str, object]
    """Fields of the protocol (`protocols.Protocol`)."""
    made_from: dict[str, object]
    """Content of settings.json (checkpoint, config, dataset, seed, sampler), network weights, bootstrap draws, and
    "trained_on": a warning if the run was trained on these recordings (training_data.py)."""
    metrics: tuple[Metric, ...]
    clips: tuple[ClipScores, ...]
    exclusions: tuple[Exclusion, ...] = ()
    cards: dict[str, FeatureCard] = field(default_factory=dict)
    """Feature card of each part ("saliency", "sound", ...), the same for generated clips and targets."""
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def warning(self) -> str:
        """Warning that the run was trained on these recordings; "" without one, and in files of earlier versions."""
        return str(self.made_from.get("trained_on", ""))

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

    Raises MetricError if it is missing, corrupt or of another schema version.
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
        raise MetricError(f"{path} is corrupt: {problems(error)}") from error
