"""From inputs to a dataset: whatever the engine finishes goes, in the order of the inputs, into shards and the ledger.

OUT.partial/scratch/    finished segments until their shard is finished; a run that was stopped goes on from both
            previews/   one picture per segment, if asked for
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from con360av_jax.data.schema import Manifest
from con360av_jax.data.writer import SHARD_RECORDS, DatasetWriter
from con360av_jax.errors import DatasetError
from preprocess.inputs import Input
from preprocess.running.engine import Engine
from preprocess.running.outcomes import SUFFIX, Outcomes
from preprocess.running.pipeline import Ledger, Pipeline, rejected_line
from preprocess.stages.work import Work

PREVIEWS = "previews"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A dataset and how this run came to it."""

    manifest: Manifest
    ledger: Ledger
    """Of this run's inputs alone; the dataset's own is in rejected.jsonl."""
    passed_over: int
    """Inputs that were in the dataset already."""


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
    """Writes `inputs` to the dataset `out`, new or not: goes on where a run was stopped, adds what is not there yet.

    The bytes depend on the inputs, their order and the settings; not on stops, workers or machines. `begin` is told how
    many inputs there are to do, `done` is called after each of them, in order.

    Raises:
        DatasetError: `out` is something else, was made with other settings, cannot be written, or no input is usable.
    """
    awaiting: dict[str, list[str]] = {}
    new_places = [place for place in out.parents if not place.exists()]

    def forget(ended: Sequence[str]) -> None:
        outcomes.discard(segment for clip in ended for segment in awaiting.pop(clip, ()))

    writer = DatasetWriter(out, pipeline.config, pipeline.fields, settings, shard_records, forget)
    outcomes = Outcomes(writer.scratch)
    finished = writer.finished
    outcomes.discard(_left_over(outcomes, finished))
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
    """The samples of one input to the writer; the lines about what was left out of it."""
    lines = []
    for part in parts:
        ledger.add(part)
        if part.rejection is not None:
            lines.append(rejected_line(part.given.path, part.rejection, part.window and part.window.index))
            continue
        for sample in outcomes.samples(part.name):
            writer.add(sample)
    return lines


def _finish(writer: DatasetWriter, ledger: Ledger, inputs: Sequence[Input], new_places: Sequence[Path]) -> Manifest:
    if not ledger.segments and not writer.finished:
        # Nothing is left behind that the next run would have to agree with.
        shutil.rmtree(writer.partial, ignore_errors=True)
        for place in new_places:
            place.rmdir()
        reasons = [str(line["reason"]) for line in ledger.rejected]
        if len(reasons) == 1:
            raise DatasetError(reasons[0])
        raise DatasetError(f"every input was rejected ({len(reasons)} reasons), the first because {reasons[0]}")
    if writer.folder.exists() and (writer.partial / PREVIEWS).is_dir():
        (writer.folder / PREVIEWS).mkdir(exist_ok=True)
        for picture in (writer.partial / PREVIEWS).iterdir():
            os.replace(picture, writer.folder / PREVIEWS / picture.name)
    # A file that was rejected once and was tried again stands in the ledger with the new reason, or not at all.
    again = {str(given.path) for given in inputs if given.name not in writer.clips_before}
    return writer.finish(outdated=lambda line: line.get("file") in again)


def _left_over(outcomes: Outcomes, finished: frozenset[str]) -> list[str]:
    """Segments of clips that are finished, from a run that was stopped before it could forget them."""
    stored = [path.name.removesuffix(SUFFIX) for path in outcomes.folder.glob(f"*{SUFFIX}")]
    return [segment for segment in stored if segment.rpartition("_")[0] in finished]
