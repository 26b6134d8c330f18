"""The `template` caption backend: a sentence of measured facts, without a model."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float

from preprocess.captions.contract import Tracks
from preprocess.stages.segment import Segment

# Upper bounds, with their words, of mean lightness (0 to 1), mean change between frames (0 to 1) and loudness (dBFS).
BRIGHTNESS = ((0.25, "dark"), (0.45, "dim"), (0.65, "well lit"), (float("inf"), "bright"))
MOTION = ((0.004, "little motion"), (0.02, "some motion"), (float("inf"), "strong motion"))
LOUDNESS = ((-80.0, "no sound"), (-40.0, "quiet sound"), (-20.0, "clear sound"), (float("inf"), "loud sound"))
# Pitch beyond which a place is above or below rather than at a side, rad.
STEEP = float(np.radians(45))


def template_caption(segment: Segment, tracks: Tracks) -> str:
    """A sentence that states light, motion, loudness and the directions of the viewpoints."""
    grey = np.stack([cv2.resize(frame, (64, 32), interpolation=cv2.INTER_AREA) for frame in segment.frames]).mean(-1)
    weights = np.cos((0.5 - (np.arange(32) + 0.5) / 32) * np.pi)[:, None] / 255
    area = weights.sum() * 64 * 255
    light = float((grey.mean(0) * weights).sum() / area)
    change = np.abs(np.diff(grey, axis=0)).mean(0) if len(grey) > 1 else np.zeros_like(grey[0])
    motion = float((change * weights).sum() / area)
    power = float(np.mean(segment.audio.astype(np.float64) ** 2))
    loudness = 10 * np.log10(power + 1e-12)
    places = list(dict.fromkeys(place(track) for track in tracks))
    where = " and ".join([", ".join(places[:-1]), places[-1]] if len(places) > 1 else places)
    return (
        f"A {_word(BRIGHTNESS, light)} 360° scene with {_word(MOTION, motion)} and {_word(LOUDNESS, loudness)}; "
        f"the eye is drawn {where}."
    )


def place(track: Float[np.ndarray, "frame 4"]) -> str:
    """Direction of a viewpoint in the middle of the segment, in words."""
    yaw, pitch = track[len(track) // 2, :2]
    if abs(pitch) > STEEP:
        return "above" if pitch > 0 else "below"
    quarters = ("ahead", "to the right", "behind", "to the left")
    return quarters[round(float(yaw) / (np.pi / 2)) % 4]


def _word(scale: Sequence[tuple[float, str]], value: float) -> str:
    return next(word for bound, word in scale if value < bound)
