"""The stages in order, from files to samples; engine.py runs them here or on many machines.

standardise -> segment -> saliency -> viewpoints -> captions -> views -> (captions joined) -> encode
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from con360av_jax.config import Config
from con360av_jax.data.schema import Sample
from con360av_jax.mel import log_mel
from preprocess.captions import CaptionBackend, as_stages
from preprocess.encode import Encoder
from preprocess.given_viewpoints import GivenViewpoints
from preprocess.inputs import Input
from preprocess.previews import write_preview
from preprocess.quality import Limits
from preprocess.records import fields_of, make_sample, pulse_code
from preprocess.saliency import SaliencyBackend
from preprocess.segment import cut, windows
from preprocess.standardise import Stereo, standardise
from preprocess.viewpoints import ViewpointSettings, find_viewpoints
from preprocess.views import render_track
from preprocess.work import Rejection, Stage, Work, Works, attempted, chained, each, there, with_samples


@dataclass
class Ledger:
    """What a run left out and why, and what it took; one line per rejected file or segment."""

    rejected: list[dict[str, object]] = field(default_factory=list)
    segments: dict[str, int] = field(default_factory=dict)
    """Segments taken, by clip."""

    def add(self, work: Work) -> None:
        """Counts a piece of work that came to its end."""
        if work.rejection is not None:
            self.rejected.append(rejected_line(work.given.path, work.rejection, work.window and work.window.index))
        else:
            self.segments[work.given.name] = self.segments.get(work.given.name, 0) + 1


def rejected_line(path: Path, rejection: Rejection, segment: int | None = None) -> dict[str, object]:
    """A line {file, stage, reason} of the ledger and, where only a segment is lost, its number."""
    line: dict[str, object] = {"file": str(path), "stage": rejection.stage, "reason": rejection.reason}
    return line if segment is None else line | {"segment": segment}


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Every setting and backend of a run; as a whole, or by its stages, it can be sent to another process."""

    config: Config
    saliency: SaliencyBackend
    captions: CaptionBackend
    encoder: Encoder
    viewpoints: ViewpointSettings | GivenViewpoints
    keep_raw: bool = False
    panorama_height: int = 512
    stereo: Stereo = "auto"
    limits: Limits = Limits()
    previews: Path | None = None
    """Folder for one picture per segment; None writes none."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of every sample."""
        return fields_of(self.encoder, self.keep_raw)

    def stages(self, is_stored: Callable[[str], bool] = lambda segment: False) -> tuple[Stage, ...]:
        """The whole chain; segments for whose names `is_stored` says so pass through untouched."""
        before, after = as_stages(self.captions)
        return (
            self._open(is_stored),
            each("segment", lambda work: replace(work, segment=cut(there(work.window), self.config, self.limits))),
            each("saliency", self._saliency, on_gpu=getattr(self.saliency, "on_gpu", False)),
            each("viewpoints", self._viewpoints),
            before,
            each("views", self._views),
            *after,
            each("encode", self._encode, on_gpu=bool(self.encoder.fields)),
        )

    def samples(
        self, inputs: Iterable[Input], ledger: Ledger, done: Callable[[Input], None] = lambda given: None
    ) -> Iterator[Sample]:
        """Every sample of every input, in order, made in this process; what fails is in `ledger` instead.

        `done` is called after each input.
        """
        for given in inputs:
            for work in chained(self.stages(), [Work(given=given)]):
                ledger.add(work)
                yield from work.samples
            done(given)

    def _open(self, is_stored: Callable[[str], bool]) -> Stage:
        def windowed(work: Work) -> list[Work]:
            clip = standardise(work.given.path, work.given.name, self.config, self.panorama_height, self.stereo)
            found = windows(clip, self.config.clip)
            whole = [replace(work, window=window, segments=len(found)) for window in found]
            return [replace(one, stored=is_stored(one.name)) for one in whole]

        def run(works: Works) -> Iterator[Work]:
            for work in works:
                found: list[Work] = []

                def look(work: Work, found: list[Work] = found) -> Work:
                    found += windowed(work)
                    return work

                opened = attempted("standardise", work, look)
                yield from found or [opened]

        return Stage(name="standardise", run=run)

    def _saliency(self, work: Work) -> Work:
        return replace(work, saliency=self.saliency(there(work.segment), self.config))

    def _viewpoints(self, work: Work) -> Work:
        clip = self.config.clip
        if isinstance(self.viewpoints, GivenViewpoints):
            return replace(work, tracks=self.viewpoints(there(work.window), clip))
        found = find_viewpoints(there(work.saliency), clip.frames_per_second, self.viewpoints)
        return replace(work, tracks=found)

    def _views(self, work: Work) -> Work:
        """Everything that needs the panoramas, which are most of a segment and end here."""
        segment, clip = there(work.segment), self.config.clip
        shared = {
            "sound": pulse_code(segment.sound),
            "mel": log_mel(segment.sound, self.config.mel),
            "saliency": there(work.saliency)[..., None],
        }
        arrays = tuple(
            shared | {"video": render_track(segment.frames, track, clip.height, clip.width), "viewpoint": track}
            for track in work.tracks
        )
        if self.previews is not None:
            write_preview(self.previews, segment)
        return replace(work, arrays=arrays, segment=None, saliency=None)

    def _encode(self, work: Work) -> Work:
        made = []
        for index, arrays in enumerate(work.arrays):
            encoded = self.encoder(arrays["video"], arrays["mel"], work.caption)
            made.append(make_sample(there(work.window), index, work.caption, arrays | encoded, self.fields))
        return with_samples(work, made)
