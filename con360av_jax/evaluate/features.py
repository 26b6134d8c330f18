"""Folder format of extracted features, which separates extraction (PyTorch) from metrics (numpy).

FEATURES/features.npy    float32: (row, dim) embeddings or (row, height, width) saliency maps, one row per frame
         clips.jsonl     one line per clip, in the order of its rows: clip, file, first (row), rows
         card.json       network and settings of the extraction (FeatureCard)
         rejected.jsonl  rejected clips with reasons
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias, get_args

import numpy as np
from cattrs.errors import BaseValidationError
from jaxtyping import Float32

from con360av_jax.config.files import changes, problems, structure, unstructure
from con360av_jax.errors import MetricError
from con360av_jax.runtime.files import replacing, write_lines, write_text

Kind: TypeAlias = Literal["video", "sound", "saliency"]
Rows: TypeAlias = Float32[np.ndarray, "row ..."]

FEATURES = "features.npy"
CLIPS = "clips.jsonl"
CARD = "card.json"
REJECTED = "rejected.jsonl"
SCHEMA_VERSION = 1
_DTYPE = "float32"
_AXES = {"video": 2, "sound": 2, "saliency": 3}
_BLOCK = 2**24  # values per check, 64 MiB

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FeatureCard:
    """Network and settings of an extraction; two sets are comparable if all but packages and counts are equal."""

    kind: str
    """Kind of features: "video", "sound" or "saliency"."""
    model: str
    """Name of the network."""
    weights_sha256: str
    """SHA-256 of the weights file."""
    settings: dict[str, object]
    """All other settings that change a feature: sample rate, resampler, frames, size, window, padding, ..."""
    packages: dict[str, str]
    """Versions of the packages used."""
    clips: int = 0
    """Number of clips, set by `write_features`."""
    rows: int = 0
    """Number of rows, set by `write_features`."""
    dtype: str = _DTYPE
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self):
        if self.kind not in get_args(Kind):
            raise MetricError(f"features of kind {self.kind!r}: give one of {', '.join(get_args(Kind))}")


@dataclass(frozen=True, kw_only=True)
class ClipRows:
    """Rows of one clip in features.npy."""

    clip: str
    """Name of the clip; a generated clip and its target have the same."""
    file: str
    first: int
    rows: int


@dataclass(frozen=True)
class FeatureSet:
    """An opened feature folder; `values` is memory-mapped and read on access."""

    folder: Path
    card: FeatureCard
    clips: tuple[ClipRows, ...]
    values: Rows
    rejected: tuple[Mapping[str, object], ...]

    def __iter__(self) -> Iterator[Rows]:
        """Rows of each clip, in order."""
        return (self.values[clip.first : clip.first + clip.rows] for clip in self.clips)


def write_features(
    folder: str | Path,
    card: FeatureCard,
    clips: Iterable[tuple[str, str, Rows]],
    rejected: Sequence[Mapping[str, object]] = (),
) -> FeatureSet:
    """Writes clips, given by name, file and rows, to a folder that appears when complete, and opens it.

    One clip is in memory at a time. `rejected` is read after the last clip, so the caller may append to it until then.
    Raises MetricError if `folder` is not empty, if there is no clip, if two clips have one name, or if rows are not
    float32, not finite or not shaped like those of the first clip.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MetricError(f"{folder} exists and is not empty: give another folder or delete it")
    with replacing(folder, MetricError) as aside:
        aside.mkdir()
        with (aside / FEATURES).open("wb") as file:
            lines = _stream(file, card, clips)
        if not lines:
            first = f", the first because: {rejected[0].get('reason', rejected[0])}" if rejected else ""
            raise MetricError(f"no clip to write to {folder}; {len(rejected)} were rejected{first}")
        rows = lines[-1].first + lines[-1].rows
        done = replace(card, clips=len(lines), rows=rows, dtype=_DTYPE, schema_version=SCHEMA_VERSION)
        write_lines(aside / CLIPS, map(unstructure, lines))
        write_lines(aside / REJECTED, rejected)
        write_text(aside / CARD, json.dumps(unstructure(done), indent=2, ensure_ascii=False) + "\n")
    return open_features(folder)


def _stream(file: BinaryIO, card: FeatureCard, clips: Iterable[tuple[str, str, Rows]]) -> list[ClipRows]:
    """Writes rows to a .npy file; the header, which has room for any count, is rewritten at the end."""
    lines: list[ClipRows] = []
    seen: set[str] = set()
    shape: tuple[int, ...] = ()
    total = start = 0
    for name, source, rows in clips:
        if rows.dtype != np.float32 or rows.ndim != _AXES[card.kind] or not rows.size:
            wanted = f"float32 with {_AXES[card.kind]} axes and at least one row"
            raise MetricError(f"{card.kind} features of {name} are {rows.dtype} of shape {rows.shape}: wanted {wanted}")
        if lines and rows.shape[1:] != shape:
            raise MetricError(f"features of {name} have rows of {rows.shape[1:]}, those before it of {shape}")
        if not np.isfinite(rows).all():
            raise MetricError(f"features of {name} are not all finite: reject the clip, or look at what made them")
        if name in seen:
            raise MetricError(f"two clips are called {name}: give every clip its own name")
        if not lines:
            shape = rows.shape[1:]
            start = _write_header(file, (0, *shape))
        seen.add(name)
        lines.append(ClipRows(clip=name, file=source, first=total, rows=len(rows)))
        file.write(rows.tobytes())
        total += len(rows)
    if lines:
        file.seek(0)
        if _write_header(file, (total, *shape)) != start:
            raise MetricError(f"{total} rows do not fit the header of {FEATURES}: write fewer clips to one folder")
    return lines


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> int:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype("<f4")), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def open_features(folder: str | Path, read_all: bool = True) -> FeatureSet:
    """Opens a folder of `write_features` with memory-mapped values.

    `read_all` reads all values once and checks that they are finite; it is not needed to show a few clips.

    Raises MetricError if a file is missing or corrupt, if counts or shapes contradict each other, or if a value is not
    finite.
    """
    folder = Path(folder)
    card = _read_card(folder / CARD)
    clips = tuple(_structured(line, ClipRows, folder / CLIPS) for line in _read_lines(folder / CLIPS))
    values = _read_values(folder / FEATURES, card)
    _check_clips(folder, card, clips, len(values))
    if read_all:
        _check_finite(folder, clips, values)
    return FeatureSet(folder, card, clips, values, tuple(_read_lines(folder / REJECTED)))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MetricError(f"{path} cannot be read ({error}): give a folder that extraction finished") from error


def _parsed(text: str, path: Path) -> dict[str, object]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise MetricError(f"{path} is corrupt ({error}): extract the features again") from error
    if not isinstance(data, dict):
        raise MetricError(f"{path} holds {type(data).__name__} instead of an object: extract the features again")
    return data


def _structured(data: Mapping[str, object], kind: type, path: Path):
    try:
        return structure(data, kind)
    except BaseValidationError as error:
        raise MetricError(f"{path}: {problems(error)}") from error


def _read_card(path: Path) -> FeatureCard:
    data = _parsed(_text(path), path)
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise MetricError(f"{path} has schema_version {version}, this program reads {SCHEMA_VERSION}: extract again")
    return _structured(data, FeatureCard, path)


def _read_lines(path: Path) -> list[dict[str, object]]:
    return [_parsed(line, path) for line in _text(path).split("\n") if line]


def _read_values(path: Path, card: FeatureCard) -> Rows:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MetricError(f"{path} is missing or corrupt ({error}): extract the features again") from error
    if str(values.dtype) != _DTYPE or card.dtype != _DTYPE:
        raise MetricError(f"{path} holds {values.dtype}, its card says {card.dtype}: both must be {_DTYPE}")
    if values.ndim != _AXES[card.kind]:
        raise MetricError(f"{path} has shape {values.shape}: {card.kind} features have {_AXES[card.kind]} axes")
    return values


def _check_clips(folder: Path, card: FeatureCard, clips: Sequence[ClipRows], rows: int) -> None:
    if len({clip.clip for clip in clips}) != len(clips):
        raise MetricError(f"{folder / CLIPS} names a clip twice: extract the features again")
    following = 0
    for clip in clips:
        if clip.first != following or clip.rows < 1:
            raise MetricError(
                f"{folder / CLIPS}: {clip.clip} has {clip.rows} rows from {clip.first}, wanted some from {following}"
            )
        following += clip.rows
    counts = {CARD: (card.clips, card.rows), CLIPS: (len(clips), following), FEATURES: (len(clips), rows)}
    if len(set(counts.values())) != 1:
        told = "; ".join(f"{name}: {number} clips, {length} rows" for name, (number, length) in counts.items())
        raise MetricError(f"{folder} contradicts itself ({told}): extract the features again")


def _check_finite(folder: Path, clips: Sequence[ClipRows], values: Rows) -> None:
    step = max(1, _BLOCK // max(1, values[:1].size))
    for start in range(0, len(values), step):
        finite = np.isfinite(values[start : start + step]).all(axis=tuple(range(1, values.ndim)))
        if not finite.all():
            row = start + int(finite.argmin())
            owner = next(clip.clip for clip in clips if row < clip.first + clip.rows)
            raise MetricError(f"{folder / FEATURES}: row {row}, of clip {owner}, is not finite: extract it again")


def card_differences(first: FeatureCard, second: FeatureCard) -> list[str]:
    """Differences that make features incomparable, as "settings.size: 224 -> 256"; package versions are ignored."""
    names = ("kind", "model", "weights_sha256", "settings")
    left, right = ({name: getattr(card, name) for name in names} for card in (first, second))
    return [*changes(left, right).values()]


def require_same_card(first: FeatureSet, second: FeatureSet) -> None:
    """Raises MetricError that lists every difference in network, weights and settings; other packages only warn."""
    found = card_differences(first.card, second.card)
    if found:
        listed = "; ".join(found)
        raise MetricError(f"{first.folder} and {second.folder} were extracted differently: {listed}")
    if first.card.packages != second.card.packages:
        logger.warning("%s and %s were extracted with other package versions", first.folder, second.folder)
