"""Assembly of a dataset: finished segments go, in the order of the inputs, into shards, rejections into the ledger.

OUT.partial/scratch/    finished segments until their shard is complete; a stopped run continues from both
            previews/   one panorama per segment, if wanted
OUT.rejected.jsonl      the ledger of a run that made no dataset because every input was rejected
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from con360av_jax.data.schema import Manifest
from con360av_jax.data.source import PREVIEWS
from con360av_jax.data.writer import SHARD_RECORDS, DatasetWriter
from con360av_jax.errors import DatasetError
from con360av_jax.runtime.files import file_stem, readable, remove_leftovers, write_lines
from preprocess.inputs import Input
from preprocess.running.engine import Engine
from preprocess.running.outcomes import SUFFIX, Outcomes
from preprocess.running.pipeline import Ledger, Pipeline
from preprocess.stages.work import Work


@dataclass(frozen=True, kw_only=True)
class Made:
    """Result of a run: the dataset's manifest and what the run added to it."""

    manifest: Manifest
    ledger: Ledger
    """Ledger of this run's inputs only; that of the dataset is rejected.jsonl."""
    passed_over: int
    """Number of inputs that were in the dataset already."""


def make_dataset(
    out: Path,
    pipeline: Pipeline,
    inputs: Sequence[Input],
    settings: Mapping[str, object],
    engine: Engine,
    *,
    previews: bool = False,
    shard_records: int = SHARD_RECORDS,
    begin: Callable[[int], None] = lambda inputs: None,
    done: Callable[[Input], None] = lambda given: None,
) -> Made:
    """Writes `inputs` to the dataset `out`: continues a stopped run, or adds what an existing dataset lacks.

    The bytes depend on the inputs, their order and the settings; not on stops, workers or machines.

    Args:
        out: dataset folder.
        pipeline: stages.
        inputs: recordings, in the order of their samples.
        settings: settings for the manifest; those of an existing dataset must be the same.
        engine: where the stages run.
        previews: whether to write one panorama per segment.
        shard_records: samples per shard.
        begin: called with the number of inputs that are not in the dataset yet.
        done: called after each of them, in order.

    Raises:
        DatasetError: `out` is no dataset, has other settings or cannot be written, or no input is usable.
    """
    awaiting: dict[str, list[str]] = {}
    new_places = [place for place in out.parents if not place.exists()]

    def forget(ended: Sequence[str]) -> None:
        outcomes.discard(segment for clip in ended for segment in awaiting.pop(clip, ()))

    writer = DatasetWriter(out, pipeline.config, pipeline.fields, settings, shard_records, forget)
    _ledger_alone(out).unlink(missing_ok=True)
    outcomes = Outcomes(writer.scratch)
    finished = writer.finished
    outcomes.discard(_left_over(outcomes, finished))
    for folder in (writer.scratch, writer.partial / PREVIEWS):
        remove_leftovers(folder)
    if previews:
        pipeline = replace(pipeline, previews=writer.partial / PREVIEWS)
    todo = [given for given in inputs if given.name not in finished]
    ledger = Ledger()
    try:
        begin(len(todo))
        for given, parts in engine.run((*pipeline.stages(outcomes.holds), outcomes.stage()), todo):
            lines = _add(writer, outcomes, parts, ledger)
            awaiting[given.name] = [part.name for part in parts if part.stored]
            writer.end_clip(given.name, lines)
            done(given)
        manifest = _finish(writer, ledger, inputs, new_places)
        return Made(manifest=manifest, ledger=ledger, passed_over=len(inputs) - len(todo))
    finally:
        writer.close()


def _add(writer: DatasetWriter, outcomes: Outcomes, parts: Sequence[Work], ledger: Ledger) -> list[dict[str, object]]:
    """Gives the samples of one input to the writer, and returns the ledger's lines of its rejections."""
    lines = []
    for part in parts:
        ledger.add(part)
        if part.rejection is not None:
            lines.append(ledger.rejected[-1])
            continue
        for sample in outcomes.samples(part.name):
            writer.add(sample)
    return lines


def _finish(writer: DatasetWriter, ledger: Ledger, inputs: Sequence[Input], new_places: Sequence[Path]) -> Manifest:
    if not ledger.segments and not writer.finished:
        # Remove the folder, so that the next run is not bound to these settings.
        shutil.rmtree(writer.partial, ignore_errors=True)
        for place in new_places:
            place.rmdir()
        raise DatasetError(_reasons(writer.folder, ledger))
    if writer.folder.exists() and (writer.partial / PREVIEWS).is_dir():
        (writer.folder / PREVIEWS).mkdir(exist_ok=True)
        for preview in (writer.partial / PREVIEWS).iterdir():
            os.replace(preview, writer.folder / PREVIEWS / preview.name)
    # A rejected file that was tried again has the new reason in the ledger, or no line.
    again = {readable(given.path) for given in inputs if given.name not in writer.clips_before}
    return writer.finish(outdated=lambda line: line.get("file") in again)


def _reasons(out: Path, ledger: Ledger) -> str:
    """Says why every input was rejected; several reasons go into a ledger beside the dataset that was not made."""
    reasons = [str(line["reason"]) for line in ledger.rejected]
    if len(reasons) == 1:
        return reasons[0]
    path = _ledger_alone(out)
    write_lines(path, ledger.rejected, DatasetError)
    return f"every input was rejected ({len(reasons)} reasons; all of them in {path}), the first because {reasons[0]}"


def _ledger_alone(out: Path) -> Path:
    return out.with_name(f"{out.name}.rejected.jsonl")


def _left_over(outcomes: Outcomes, finished: frozenset[str]) -> list[str]:
    """Segments of finished clips that a stopped run did not discard."""
    stored = [path.name.removesuffix(SUFFIX) for path in outcomes.folder.glob(f"*{SUFFIX}")]
    stems = {file_stem(clip) for clip in finished}
    return [segment for segment in stored if segment.rpartition("_")[0] in stems]
