"""Finished segments on disk until their shard is complete: one ArrayRecord file per segment, written atomically."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from con360av_jax.data.schema import Sample, from_bytes, to_bytes
from con360av_jax.data.writer import WRITER_OPTIONS
from con360av_jax.errors import DatasetError
from con360av_jax.runtime.files import file_stem, replacing
from preprocess.stages.work import Stage, Work, Works

SUFFIX = ".arrayrecord"
# Without read-ahead, which would read the whole file.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


@dataclass(frozen=True)
class Outcomes:
    """Store of finished segments in a folder that every worker can write to."""

    folder: Path

    def path(self, segment: str) -> Path:
        """Path of the file of the segment `<clip>_<number>`."""
        clip, _, number = segment.rpartition("_")
        return self.folder / f"{file_stem(clip)}_{number}{SUFFIX}"

    def holds(self, segment: str) -> bool:
        """Whether all of the segment's samples are stored; false for a file that a power failure cut off."""
        if not self.path(segment).is_file():
            return False
        try:
            reader = ArrayRecordReader(str(self.path(segment)), READER_OPTIONS)
            found = reader.num_records() > 0
            reader.close()
        except RuntimeError:
            return False
        return found

    def samples(self, segment: str) -> Iterator[Sample]:
        """Stored samples of a segment."""
        reader = ArrayRecordReader(str(self.path(segment)), READER_OPTIONS)
        try:
            for record in reader.read_all():
                yield from_bytes(record)
        finally:
            reader.close()

    def store(self, segment: str, samples: Iterable[Sample]) -> None:
        """Writes a segment's samples; raises DatasetError if the folder cannot be written to."""
        try:
            with replacing(self.path(segment), DatasetError) as aside:
                writer = ArrayRecordWriter(str(aside), WRITER_OPTIONS)
                try:
                    for sample in samples:
                        writer.write(to_bytes(sample))
                finally:
                    writer.close()
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise DatasetError(f"{self.folder} cannot be written to ({reason}): make room and run it again") from error

    def discard(self, segments: Iterable[str]) -> None:
        """Deletes stored segments."""
        for segment in segments:
            self.path(segment).unlink(missing_ok=True)

    def stage(self) -> Stage:
        """The last stage: stores samples, and passes on only the fact that they are stored."""

        def run(works: Works) -> Iterator[Work]:
            for work in works:
                if work.waits:
                    # Not `attempted`: a folder that cannot be written to ends the run.
                    self.store(work.name, work.samples)
                    work = work.emptied(stored=True)
                yield work

        return Stage(name="write", run=run)
