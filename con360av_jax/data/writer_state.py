"""What a dataset that is there already, or was begun, is made of: samples made otherwise never join it."""

import json
from collections.abc import Mapping
from pathlib import Path

from con360av_jax.config.files import leaves
from con360av_jax.data.schema import Manifest, SampleEntry
from con360av_jax.data.source import REJECTED, open_dataset
from con360av_jax.errors import DatasetError
from con360av_jax.runtime.files import write_text

BEGUN = "begun.json"
Line = dict[str, object]


def existing(folder: Path, made: Mapping[str, object]) -> tuple[Manifest | None, tuple[SampleEntry, ...], list[Line]]:
    """The whole dataset that is there already, its samples and its ledger."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None, (), []
    dataset = open_dataset(folder, verify="sizes")
    manifest = dataset.manifest
    there = {"config": manifest.config, "fields": list(manifest.fields), "settings": manifest.settings}
    _require_same(folder, there, made)
    lines = (folder / REJECTED).read_text(encoding="utf-8").splitlines()
    return manifest, dataset.samples, [json.loads(line) for line in lines]


def begin(partial: Path, made: Mapping[str, object]) -> None:
    """Makes the partial folder, or checks that the one that is there was begun with the same settings."""
    partial.mkdir(parents=True, exist_ok=True)
    if not (partial / BEGUN).is_file():
        write_text(partial / BEGUN, json.dumps(made, indent=1) + "\n")
        return
    try:
        there = json.loads((partial / BEGUN).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{partial / BEGUN} is corrupt: delete {partial} and start again") from error
    _require_same(partial, there, made)


def _require_same(place: Path, there: Mapping[str, object], here: Mapping[str, object]) -> None:
    flat_there, flat_here = leaves(there), leaves(here)
    differing = sorted(
        name for name in flat_there.keys() | flat_here.keys() if flat_there.get(name) != flat_here.get(name)
    )
    if differing:
        first = ", ".join(
            f"{name} is {flat_there.get(name)} there, {flat_here.get(name)} here" for name in differing[:3]
        )
        raise DatasetError(
            f"{place} was made with {len(differing)} other settings ({first}): use the same, or another folder"
        )
