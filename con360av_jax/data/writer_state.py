"""State of an interrupted dataset writer on disk: finished dataset, partial folder and its shards."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cattrs.errors import BaseValidationError

from con360av_jax.config.files import changes, from_dict, structure, to_dict
from con360av_jax.data.schema import FileEntry, Manifest, SampleEntry
from con360av_jax.data.source import REJECTED, open_dataset
from con360av_jax.errors import ConfigError, DatasetError, some
from con360av_jax.runtime.files import write_text
from con360av_jax.runtime.text_files import split_lines

SETTINGS_FILE = "begun.json"
SHAPING = ("clip", "mel", "model")
"""Parts of a config that samples depend on."""
Line = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Description of a finished shard."""

    file: FileEntry
    """The file of the shard."""
    samples: tuple[SampleEntry, ...]
    """Its samples, in the order of the records."""
    ended: tuple[str, ...]
    """Recordings that ended in this shard: all of their samples are in it or in earlier shards."""
    rejected: tuple[Line, ...]
    """Ledger lines of these recordings: what was rejected and why."""


def read_finished(
    folder: Path, made: Mapping[str, object]
) -> tuple[Manifest | None, tuple[SampleEntry, ...], list[Line]]:
    """Returns manifest, samples and ledger of the finished dataset in `folder`; (None, (), []) if there is none.

    Raises DatasetError if `folder` holds anything else or a dataset that was made with other settings than `made`.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None, (), []
    dataset = open_dataset(folder, verify="sizes")
    manifest = dataset.manifest
    there = {"config": manifest.config, "fields": list(manifest.fields), "settings": manifest.settings}
    _require_same(folder, there, made)
    lines = split_lines((folder / REJECTED).read_text(encoding="utf-8"))
    return manifest, dataset.samples, [json.loads(line) for line in lines]


def open_partial(partial: Path, made: Mapping[str, object]) -> None:
    """Makes the partial folder; raises DatasetError if there is one that was made with other settings."""
    partial.mkdir(parents=True, exist_ok=True)
    if not (partial / SETTINGS_FILE).is_file():
        write_text(partial / SETTINGS_FILE, json.dumps(made, indent=1) + "\n")
        return
    try:
        there = json.loads((partial / SETTINGS_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{partial / SETTINGS_FILE} is corrupt: delete {partial} and start again") from error
    _require_same(partial, there, made)


def read_shards(partial: Path, folder: Path, counted: Iterable[FileEntry]) -> list[Shard]:
    """Returns the finished shards in `partial` that are not yet `counted` in the dataset `folder`; removes all others.

    Raises DatasetError if a description is corrupt or its shard is missing or truncated.
    """
    shards: list[Shard] = []
    names = {file.file for file in counted}
    for path in sorted(partial.glob("samples-*.json")):
        try:
            shard = structure(json.loads(path.read_text(encoding="utf-8")), Shard)
        except (OSError, ValueError, BaseValidationError) as error:
            raise DatasetError(f"{path} is corrupt ({type(error).__name__}): delete {partial}") from error
        if shard.file.file in names:
            path.unlink()
            continue
        places = (partial / shard.file.file, folder / shard.file.file)
        if not any(place.is_file() and place.stat().st_size == shard.file.bytes for place in places):
            raise DatasetError(f"{places[0]} is missing or cut off: delete {partial} and start again")
        shards.append(shard)
    described = {shard.file.file for shard in shards}
    for path in partial.glob("*.arrayrecord"):
        if path.name not in described:
            path.unlink()
    return shards


def _require_same(place: Path, there: Mapping[str, object], here: Mapping[str, object]) -> None:
    if found := [*changes(_shaping(place, there), _shaping(place, here)).values()]:
        raise DatasetError(
            f"{place} was made with {len(found)} other settings ({some(found, '; ')}): use the same, or another folder"
        )


def _shaping(place: Path, made: Mapping[str, object]) -> dict[str, object]:
    """Returns `made` with only those settings of its config that shape samples, complete with today's defaults.

    A dataset of an earlier version lacks settings that were added since, and those of training never reach a sample.
    """
    config = made.get("config")
    try:
        complete = to_dict(from_dict(config)) if isinstance(config, Mapping) else {}
    except ConfigError as error:
        raise DatasetError(f"the config that {place} was made with cannot be read: {error}") from error
    return {**made, "config": {name: complete.get(name) for name in SHAPING}}
