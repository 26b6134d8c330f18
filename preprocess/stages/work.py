"""What passes from stage to stage: one segment and what is known of it; and how stages are made of functions.

A stage turns an iterator of pieces of work into another and never ends at a bad file: a piece that failed carries its
rejection to the end. Stages are lazy, so that a chain of them works on one segment at a time.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float32

from con360av_jax.data.schema import Sample
from con360av_jax.errors import CheckpointError, ConfigError, DatasetError, GeometryError, MediaError
from preprocess.inputs import Input
from preprocess.stages.segment import Segment, Window

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rejection:
    """One input, or one segment of it, that a stage could not use."""

    stage: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """One segment on its way; at first a whole input, and still one if the input was rejected."""

    given: Input
    number: int = 0
    """Of the input in its run."""
    window: Window | None = None
    segments: int = 0
    """How many the input has."""
    stored: bool = False
    """Whether the segment's samples are on disk, so that nothing is left to do."""
    rejection: Rejection | None = None
    fatal: bool = False
    """Whether the rejection ends the run."""
    segment: Segment | None = None
    saliency: Float32[np.ndarray, "frame height width"] | None = None
    tracks: tuple[Float32[np.ndarray, "frame 4"], ...] = ()
    described: Any = None
    """What a model said of the segment's faces, before another joins that into a caption."""
    caption: str = ""
    arrays: tuple[dict[str, np.ndarray], ...] = ()
    """Per viewpoint."""
    samples: tuple[Sample, ...] = ()

    @property
    def name(self) -> str:
        """Of the segment, unique in a dataset."""
        return f"{self.given.name}_{self.window.index}" if self.window else self.given.name

    @property
    def waits(self) -> bool:
        """Whether there is something left to do."""
        return self.rejection is None and not self.stored

    def emptied(self, rejection: Rejection | None = None, stored: bool = False) -> "Work":
        """The same piece of work without what was made of it."""
        return Work(
            given=self.given,
            number=self.number,
            window=self.window,
            segments=self.segments,
            rejection=rejection,
            stored=stored,
        )


Works: TypeAlias = Iterable[Work]
Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the chain."""

    name: str
    run: Callable[[Works], Iterator[Work]]
    on_gpu: bool = False
    """Whether it wants a GPU where there is one to be had."""
    at_once: int = 1
    """How many segments it likes to see together."""


def each(name: str, function: Callable[[Work], Work], on_gpu: bool = False) -> Stage:
    """The stage that does `function` to one piece of work after the other."""

    def run(works: Works) -> Iterator[Work]:
        for work in works:
            yield attempted(name, work, function) if work.waits else work

    return Stage(name=name, run=run, on_gpu=on_gpu)


def attempted(name: str, work: Work, function: Callable[[Work], Work]) -> Work:
    """`function(work)`, or the work rejected by the stage `name`; errors of the set-up pass through."""
    try:
        return function(work)
    except (MediaError, GeometryError, DatasetError) as error:
        return work.emptied(Rejection(name, str(error)))
    except (ConfigError, CheckpointError):
        raise
    except Exception as error:  # whatever a strange file does to a library, the other files go on
        logger.warning("%s: stage %s failed", work.name, name, exc_info=error)
        return work.emptied(Rejection(name, f"{work.name}: {type(error).__name__}: {error}"))


def chained(stages: Iterable[Stage], works: Works) -> Iterator[Work]:
    """`works` through all stages, one piece after the other."""
    flow = iter(works)
    for stage in stages:
        flow = stage.run(flow)
    return flow


def there(part: Part | None) -> Part:
    """What a stage before this one must have made."""
    if part is None:
        raise TypeError("a stage of the chain ran before the one that it needs")
    return part


def with_samples(work: Work, samples: Iterable[Sample]) -> Work:
    """The work at its end: its samples alone."""
    return replace(work.emptied(), samples=tuple(samples))
