"""The contract of saliency backends: maps of what catches the eye in the panoramas of a segment."""

from typing import Protocol

import numpy as np
from jaxtyping import Float32

from con360av_jax.config.settings import Config
from preprocess.stages.segment import Segment


class SaliencyBackend(Protocol):
    """Saliency of a segment: panoramas of the config's map size, in [0, 1] by the segment's minimum and maximum.

    A backend that can use a GPU has the attribute `on_gpu`.
    """

    def __call__(self, segment: Segment, config: Config) -> Float32[np.ndarray, "frame height width"]: ...
