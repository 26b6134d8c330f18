"""Captions: one sentence on the whole scene of a segment; what every backend offers and what the models' need."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float

from preprocess.stages.segment import Segment

CaptionName = Literal["file", "template", "blip2+llama"]
Tracks = Sequence[Float[np.ndarray, "frame 4"]]


class CaptionBackend(Protocol):
    """A caption of the segment, given the viewpoints found in it."""

    def __call__(self, segment: Segment, tracks: Tracks) -> str: ...


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """What `blip2+llama` needs to know; the other backends need nothing."""

    faces: str = ""
    """Folder or Hugging Face id of a BLIP-2."""
    join: str = ""
    """Folder or Hugging Face id of a chat model."""
    prompts: Path | None = None
    """TOML file; None takes the prompts of the package."""
    texts: Path = Path("captions")
    """Folder that keeps every text."""
    device: str = "auto"
    batch_size: int = 24
    """Faces in one call of BLIP-2."""
    from_hub: bool = False
    """Whether ids may be downloaded."""
