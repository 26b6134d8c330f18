"""The stages in order: files in, samples out, one segment in memory at a time; what fails goes into the ledger.

standardise -> segment -> saliency -> viewpoints -> captions -> (per viewpoint) views -> encode -> record
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from con360av_jax.config import Config
from con360av_jax.data.schema import Sample
from con360av_jax.errors import Con360Error, DatasetError, GeometryError, MediaError
from con360av_jax.mel import log_mel
from preprocess.captions import CaptionBackend
from preprocess.encode import Encoder
from preprocess.inputs import Input
from preprocess.previews import write_preview
from preprocess.records import fields_of, make_sample, pulse_code
from preprocess.saliency import SaliencyBackend
from preprocess.segment import Segment, Window, cut, windows
from preprocess.standardise import Stereo, standardise
from preprocess.viewpoints import ViewpointSettings, find_viewpoints
from preprocess.views import render_track


class Rejection(Con360Error):
    """One input, or one segment of it, that a stage could not use."""

    def __init__(self, stage: str, reason: str):
        super().__init__(reason)
        self.stage, self.reason = stage, reason


@dataclass
class Ledger:
    """What a run left out and why, and what it took; one line per rejected file or segment."""

    rejected: list[dict[str, object]] = field(default_factory=list)
    segments: dict[str, int] = field(default_factory=dict)
    """Segments taken, by clip."""

    def reject(self, path: Path, rejection: Rejection, segment: int | None = None) -> None:
        """Adds a line {file, stage, reason} and, where only a segment is lost, its number."""
        line: dict[str, object] = {"file": str(path), "stage": rejection.stage, "reason": rejection.reason}
        self.rejected.append(line if segment is None else line | {"segment": segment})


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Every setting and backend of a run."""

    config: Config
    saliency: SaliencyBackend
    captions: CaptionBackend
    encoder: Encoder
    viewpoints: ViewpointSettings
    keep_raw: bool = False
    panorama_height: int = 512
    stereo: Stereo = "auto"
    previews: Path | None = None
    """Folder for one picture per segment; None writes none."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of every sample."""
        return fields_of(self.encoder, self.keep_raw)

    def samples(
        self, inputs: Iterable[Input], ledger: Ledger, done: Callable[[Input], None] = lambda given: None
    ) -> Iterator[Sample]:
        """Every sample of every input, in order; an input or segment that fails is in `ledger` instead.

        `done` is called after each input.
        """
        for given in inputs:
            for window in self._windows(given, ledger):
                try:
                    samples = self._segment_samples(window)
                except Rejection as rejection:
                    ledger.reject(given.path, rejection, window.index)
                    continue
                ledger.segments[given.name] = ledger.segments.get(given.name, 0) + 1
                yield from samples
            done(given)

    def _windows(self, given: Input, ledger: Ledger) -> tuple[Window, ...]:
        try:
            with stage("standardise"):
                clip = standardise(given.path, given.name, self.config, self.panorama_height, self.stereo)
        except Rejection as rejection:
            ledger.reject(given.path, rejection)
            return ()
        return windows(clip, self.config.clip)

    def _segment_samples(self, window: Window) -> list[Sample]:
        """All viewpoints of one segment, or a Rejection."""
        with stage("segment"):
            segment = cut(window, self.config)
        with stage("saliency"):
            saliency = self.saliency(segment, self.config)
        with stage("viewpoints"):
            tracks = find_viewpoints(saliency, self.config.clip.frames_per_second, self.viewpoints)
        with stage("captions"):
            caption = self.captions(segment, tracks)
        shared = {
            "sound": pulse_code(segment.sound),
            "mel": log_mel(segment.sound, self.config.mel),
            "saliency": saliency[..., None],
        }
        samples = []
        for index, track in enumerate(tracks):
            with stage("views"):
                view = render_track(segment.frames, track, self.config.clip.height, self.config.clip.width)
            with stage("encode"):
                encoded = self.encoder(view, shared["mel"], caption)
            arrays = shared | encoded | {"video": view, "viewpoint": track}
            samples.append(make_sample(segment, index, caption, arrays, self.fields))
        self._preview(segment)
        return samples

    def _preview(self, segment: Segment) -> None:
        if self.previews is not None:
            write_preview(self.previews, segment)


@contextmanager
def stage(name: str) -> Generator[None]:
    """Errors that belong to an input become a Rejection that names the stage; errors of the set-up pass through."""
    try:
        yield
    except (MediaError, GeometryError, DatasetError) as error:
        raise Rejection(name, str(error)) from error
