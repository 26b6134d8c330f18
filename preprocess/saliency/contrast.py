"""The `contrast` saliency backend, which needs no weights: sphere/contrast.py on the panoramas of a segment."""

import numpy as np
from jaxtyping import Float32

from con360av_jax.config.settings import Config
from con360av_jax.sphere.contrast import contrast_saliency
from preprocess.stages.segment import Segment


def segment_contrast(segment: Segment, config: Config) -> Float32[np.ndarray, "frame height width"]:
    """The `contrast` backend, see `SaliencyBackend`."""
    clip = config.clip
    return contrast_saliency(segment.frames, clip.frames_per_second, clip.map_height, clip.map_width)
