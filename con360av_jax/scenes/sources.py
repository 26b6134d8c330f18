"""Samples of procedural scenes of version 2, rendered when they are asked for: random-access sources for Grain.

Sample n of a source is a pure function of its settings and n, so threads, processes and order change nothing. Sources
are endless for all purposes; consecutive numbers share scenes and are faster than shuffled ones.
"""

from functools import lru_cache
from typing import SupportsIndex, TypedDict

import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax.scenes.panorama import render_views
from con360av_jax.scenes.scene import Scene
from con360av_jax.scenes.version_2 import SPLIT_NUMBERS, SceneSplit, make_scene_2
from con360av_jax.scenes.views import SeenObject, draw_viewpoint, seen_objects, view_caption

SAMPLES = 2**30
"""Length of every source."""
VIEWS_PER_SCENE = 4
"""Number of consecutive samples from one scene."""


class Still(TypedDict):
    """One view of a scene at one instant."""

    view: UInt8[np.ndarray, "height width 3"]
    view_caption: str
    """Caption of what the view shows."""
    scene_caption: str
    """Caption of the whole scene, which does not say where the view looks."""
    viewpoint: Float32[np.ndarray, "4"]
    """Yaw, pitch and horizontal and vertical field of view, rad."""
    seen: tuple[SeenObject, ...]
    """Objects in view, the nearest to the centre first."""
    place: str
    """Name of the scene's palette."""


class SceneStills:
    """Single views of scenes: `source[n]` is still number n."""

    def __init__(self, seed: int, height: int = 64, width: int = 64, seconds: float = 2.0, split: SceneSplit = "train"):
        self.seed, self.height, self.width, self.seconds = seed, height, width, seconds
        self.split: SceneSplit = split

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, position: SupportsIndex) -> Still:
        """Renders still `position`; raises IndexError outside the source."""
        number = checked(position)
        scene = _scene(self.seed, number // VIEWS_PER_SCENE, self.seconds, self.split)
        generator = _generator(self.seed, self.split, number)
        time = float(generator.uniform(0, self.seconds))
        viewpoint = draw_viewpoint(scene, time, generator)
        return {
            "view": render_views(scene, np.array([time]), viewpoint, self.height, self.width)[0],
            "view_caption": view_caption(scene, time, viewpoint, generator, moves=False),
            "scene_caption": scene.caption,
            "viewpoint": viewpoint,
            "seen": seen_objects(scene, time, viewpoint),
            "place": scene.background.palette,
        }

    def __repr__(self) -> str:
        # Grain shows its sources in logs.
        return f"SceneStills(seed={self.seed}, {self.split})"


def checked(position: SupportsIndex) -> int:
    """The number of a sample; raises IndexError outside a source."""
    number = position.__index__()
    if not 0 <= number < SAMPLES:
        raise IndexError(f"sample {number} of {SAMPLES} samples of scenes")
    return number


@lru_cache(maxsize=16)
def _scene(seed: int, index: int, seconds: float, split: SceneSplit) -> Scene:
    return make_scene_2(seed, index, seconds, split)


def _generator(seed: int, split: SceneSplit, number: int) -> np.random.Generator:
    """Source of what is drawn for one sample besides its scene."""
    return np.random.default_rng(np.random.SeedSequence([3, SPLIT_NUMBERS[split], seed, number]))
