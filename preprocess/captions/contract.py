"""The contract of caption backends: one sentence on the whole scene of a segment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float

from preprocess.stages.segment import Segment
from preprocess.stages.work import Stage, each, there

Tracks = Sequence[Float[np.ndarray, "frame 4"]]


class CaptionBackend(Protocol):
    """Caption of a segment, given the viewpoints found in it.

    A backend of several models may have `stages()`, see `as_stages`, and `sources`, see `caption_sources`.
    """

    def __call__(self, segment: Segment, tracks: Tracks) -> str: ...


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """Settings of the backend `blip2+llama`; the other backends have none."""

    faces: str = ""
    """Folder or Hugging Face id of a BLIP-2 model."""
    join: str = ""
    """Folder or Hugging Face id of a chat model."""
    prompts: Path | None = None
    """TOML file with prompts; None takes those of the package."""
    texts: Path = Path("captions")
    """Folder that keeps every text."""
    device: str = "auto"
    batch_size: int = 24
    """Faces per call of BLIP-2."""
    from_hub: bool = False
    """Whether models may be downloaded by their ids."""


def as_stages(captions: CaptionBackend) -> tuple[Stage, tuple[Stage, ...]]:
    """The stage that needs a segment's panoramas, and the stages that follow once the panoramas are dropped."""
    own = getattr(captions, "stages", None)
    if own is not None:
        return own()
    return each("captions", lambda work: replace(work, caption=captions(there(work.segment), work.tracks))), ()


def caption_sources(captions: CaptionBackend) -> dict[str, str]:
    """Models and prompts of a backend, for the dataset's manifest; empty for backends without models."""
    return getattr(captions, "sources", {})
