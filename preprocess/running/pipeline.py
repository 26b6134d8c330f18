"""The stages in order, from recordings to samples; `engine` runs them in this process or on many machines.

1. standardise  checks a whole recording, before anything is decoded       stages/standardise.py
2. segment      decodes and checks one segment, limits in `quality`        stages/segment.py
3. saliency     maps of what catches the eye                               saliency/
4. viewpoints   tracks found in the saliency, or given by the user         stages/viewpoints.py, given_viewpoints.py
5. captions     a sentence on the scene, or texts that a later stage joins captions/
6. views        the video of every viewpoint; panoramas are dropped        stages/views.py
7. captions     the joined sentence, for backends with such a stage        captions/
8. encode       frozen encoders; the arrays become samples                 stages/records.py

An unusable recording is rejected in 1, an unusable segment in 2; other stages reject what they cannot process. A
rejection becomes a line of the ledger (rejected.jsonl), and the run goes on.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from con360av_jax.config.settings import ClipConfig, Config
from con360av_jax.data.encoding import Encoder, record_fields
from con360av_jax.data.schema import Sample
from con360av_jax.media.mel import log_mel
from con360av_jax.runtime.files import readable
from preprocess.captions.contract import CaptionBackend, as_stages
from preprocess.choices import Stereo
from preprocess.inputs import Input
from preprocess.saliency.contract import SaliencyBackend
from preprocess.stages.given_viewpoints import GivenViewpoints
from preprocess.stages.previews import write_preview
from preprocess.stages.quality import Limits
from preprocess.stages.records import make_sample, pulse_code
from preprocess.stages.segment import Cutter, Window, windows
from preprocess.stages.standardise import standardise
from preprocess.stages.viewpoints import ViewpointSettings, find_viewpoints
from preprocess.stages.views import render_tracks
from preprocess.stages.work import Stage, Work, Works, attempted, chained, each, there


@dataclass
class Ledger:
    """Segments taken, and one line per rejected file or segment with the reason."""

    rejected: list[dict[str, object]] = field(default_factory=list)
    """Lines {file, stage, reason}, with the segment's number if only a segment is rejected."""
    segments: dict[str, int] = field(default_factory=dict)
    """Number of segments taken from each clip."""

    def add(self, work: Work) -> None:
        """Counts a finished or rejected piece of work."""
        if work.rejection is not None:
            line: dict[str, object] = {
                "file": readable(work.given.path),
                "stage": work.rejection.stage,
                "reason": work.rejection.reason,
            }
            self.rejected.append(line | ({"segment": work.window.index} if work.window else {}))
        else:
            self.segments[work.given.name] = self.segments.get(work.given.name, 0) + 1


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Settings and backends of a run; the pipeline and each of its stages can be pickled."""

    config: Config
    saliency: SaliencyBackend
    captions: CaptionBackend
    encoder: Encoder
    viewpoints: ViewpointSettings | GivenViewpoints
    keep_raw: bool = False
    panorama_height: int = 512
    view_height: int = 1920
    stereo: Stereo = "auto"
    limits: Limits = Limits()
    previews: Path | None = None
    """Folder for one panorama per segment; None writes none."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of every sample (`record_fields`)."""
        return record_fields(self.encoder, self.keep_raw)

    def stages(self, is_stored: Callable[[str], bool] = lambda segment: False) -> tuple[Stage, ...]:
        """All stages, in order; segments for whose name `is_stored` is true pass through untouched.

        Each stage holds only its own backend, so that a process which runs some stages opens no other backend.
        """
        config, saliency, viewpoints, encoder = self.config, self.saliency, self.viewpoints, self.encoder
        limits, previews, fields = self.limits, self.previews, self.fields
        before, after = as_stages(self.captions)
        return (
            _opened(partial(_windows, config, self.panorama_height, self.stereo, self.view_height), is_stored),
            Stage(name="segment", run=partial(_cut, config, limits)),
            each(
                "saliency",
                lambda work: replace(work, saliency=saliency(there(work.segment), config)),
                on_gpu=getattr(saliency, "on_gpu", False),
            ),
            each("viewpoints", partial(_track, config.clip, viewpoints)),
            before,
            each("views", partial(_render, config, previews)),
            *after,
            each("encode", partial(_encode, encoder, fields), on_gpu=bool(encoder.fields)),
        )

    def samples(
        self, inputs: Iterable[Input], ledger: Ledger, done: Callable[[Input], None] = lambda given: None
    ) -> Iterator[Sample]:
        """Yields the samples of all inputs, in order, made in this process; counts segments and rejections in `ledger`.

        `done` is called after each input.
        """
        for given in inputs:
            for work in chained(self.stages(), [Work(given=given)]):
                ledger.add(work)
                yield from work.samples
            done(given)


def _windows(
    config: Config, panorama_height: int, stereo: Stereo, view_height: int, given: Input
) -> tuple[Window, ...]:
    clip = standardise(given.path, given.name, config, panorama_height, stereo, view_height)
    return windows(clip, config.clip)


def _cut(config: Config, limits: Limits, works: Works) -> Iterator[Work]:
    with Cutter(config, limits) as cutter:

        def segmented(work: Work) -> Work:
            return replace(work, segment=cutter(there(work.window)))

        for work in works:
            yield attempted("segment", work, segmented) if work.waits else work


def _opened(windows_of: Callable[[Input], tuple[Window, ...]], is_stored: Callable[[str], bool]) -> Stage:
    """The stage that splits an input into its segments."""

    def run(works: Works) -> Iterator[Work]:
        for work in works:
            found: list[Work] = []

            def split(work: Work, found: list[Work] = found) -> Work:
                cuts = windows_of(work.given)
                whole = [replace(work, window=window, segments=len(cuts)) for window in cuts]
                found += [replace(one, stored=is_stored(one.name)) for one in whole]
                return work

            opened = attempted("standardise", work, split)
            yield from found or [opened]

    return Stage(name="standardise", run=run)


def _track(clip: ClipConfig, viewpoints: ViewpointSettings | GivenViewpoints, work: Work) -> Work:
    if isinstance(viewpoints, GivenViewpoints):
        tracks = viewpoints(there(work.window), clip)
        return replace(work, tracks=tracks, peaks=(None,) * len(tracks))
    found = find_viewpoints(there(work.saliency), clip.frames_per_second, viewpoints)
    return replace(work, tracks=tuple(one.track for one in found), peaks=tuple(one.peak for one in found))


def _render(config: Config, previews: Path | None, work: Work) -> Work:
    """Renders the views, and drops the panoramas, which take most of a segment's memory."""
    segment, clip = there(work.segment), config.clip
    shared = {
        "sound": pulse_code(segment.audio),
        "mel": log_mel(segment.audio, config.mel),
        "saliency": there(work.saliency)[..., None],
    }
    videos = render_tracks(segment.view_panoramas(config), work.tracks, clip.height, clip.width)
    arrays = tuple(
        shared | {"video": video, "viewpoint": track} for video, track in zip(videos, work.tracks, strict=True)
    )
    if previews is not None:
        write_preview(previews, segment)
    return replace(work, arrays=arrays, segment=None, saliency=None)


def _encode(encoder: Encoder, fields: tuple[str, ...], work: Work) -> Work:
    made = []
    for index, arrays in enumerate(work.arrays):
        encoded = encoder(arrays["video"], arrays["mel"], work.caption)
        peak = work.peaks[index]
        made.append(make_sample(there(work.window), index, work.caption, arrays | encoded, fields, peak))
    return replace(work.emptied(), samples=tuple(made))
