"""The data that stages pass on, one `Work` per segment, and stages made of functions.

A stage turns an iterator of pieces of work into another one and goes on after a bad file: a piece that failed carries
its rejection to the end. Stages are lazy, so that a chain of them holds one segment at a time.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
    """Why a stage rejected an input or one of its segments."""

    stage: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """One segment and what the stages have made of it; before "standardise", and if that rejects it, a whole input."""

    given: Input
    number: int = 0
    """Position of the input in the run."""
    window: Window | None = None
    segments: int = 0
    """Number of segments of the input; 0 before they are known."""
    stored: bool = False
    """Whether the segment's samples are on disk; later stages then skip it."""
    rejection: Rejection | None = None
    fatal: bool = False
    """Whether the rejection ends the run."""
    segment: Segment | None = None
    saliency: Float32[np.ndarray, "frame height width"] | None = None
    tracks: tuple[Float32[np.ndarray, "frame 4"], ...] = ()
    peaks: tuple[float | None, ...] = ()
    """Peak of each track's viewpoint (`Viewpoint.peak`), None where it is not known."""
    described: Any = None
    """Texts on the segment's cube faces, before a chat model joins them into a caption."""
    caption: str = ""
    arrays: tuple[dict[str, np.ndarray], ...] = ()
    """Arrays of each viewpoint, by field."""
    samples: tuple[Sample, ...] = ()

    @property
    def name(self) -> str:
        """Name of the segment, or of the input before it is split; unique in a dataset."""
        return f"{self.given.name}_{self.window.index}" if self.window else self.given.name

    @property
    def waits(self) -> bool:
        """Whether stages still have something to do."""
        return self.rejection is None and not self.stored

    def emptied(self, rejection: Rejection | None = None, stored: bool = False) -> "Work":
        """The same piece of work without its arrays, caption and samples."""
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
    """One step of the chain; a picklable function over pieces of work."""

    name: str
    run: Callable[[Works], Iterator[Work]]
    on_gpu: bool = False
    """Whether the stage uses a GPU if one is available."""
    at_once: int = 1
    """Number of segments that the stage processes together."""


def each(name: str, function: Callable[[Work], Work], on_gpu: bool = False) -> Stage:
    """The stage that applies `function` to one piece of work after the other."""

    def run(works: Works) -> Iterator[Work]:
        for work in works:
            yield attempted(name, work, function) if work.waits else work
            # Or the segment would stay in memory while the next one is decoded.
            del work

    return Stage(name=name, run=run, on_gpu=on_gpu)


def attempted(name: str, work: Work, function: Callable[[Work], Work]) -> Work:
    """`function(work)`, or the work rejected by stage `name`; ConfigError and CheckpointError end the run."""
    try:
        return function(work)
    except (MediaError, GeometryError, DatasetError) as error:
        return work.emptied(Rejection(name, str(error)))
    except (ConfigError, CheckpointError):
        raise
    except Exception as error:  # a malformed file can raise anything in a library; the other files go on
        logger.debug("%s: stage %s failed", work.name, name, exc_info=error)
        return work.emptied(Rejection(name, f"{work.name}: {type(error).__name__}: {error}"))


def chained(stages: Iterable[Stage], works: Works) -> Iterator[Work]:
    """Passes `works` through all stages, one piece after the other."""
    flow = iter(works)
    for stage in stages:
        flow = stage.run(flow)
    return flow


def there(part: Part | None) -> Part:
    """Returns `part`; raises TypeError if it is None because the stage that makes it has not run."""
    if part is None:
        raise TypeError("a stage ran before the stage that makes its input")
    return part
