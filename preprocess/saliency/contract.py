"""Saliency: what catches the eye in a panorama; what every backend offers."""

from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float32

from con360av_jax.config.settings import Config
from preprocess.stages.segment import Segment

SaliencyName = Literal["contrast", "file", "salvit360"]
SaliencyDevice = Literal["cpu", "cuda"]


class SaliencyBackend(Protocol):
    """Saliency of one segment: (frame, height, width) panoramas of the config's map size, min-max over the segment."""

    def __call__(self, segment: Segment, config: Config) -> Float32[np.ndarray, "frame height width"]: ...
