"""Samples of procedural scenes of version 2, rendered when they are asked for: random-access sources for Grain.

Sample n of a source is a pure function of its settings and n, so threads, processes and order change nothing. Sources
are endless for all purposes; consecutive numbers share scenes and are faster than shuffled ones. Arrays are those of
a record (data/schema.py): a clip equals, but for resampling and video coding, the record of the same scene that
`con360av synth` writes and `python -m preprocess run` reads, with `contrast` saliency (sphere/contrast.py).
"""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Generic, SupportsIndex, TypedDict, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16, UInt8

from con360av_jax.config.settings import ClipConfig, MelConfig
from con360av_jax.data.transforms import stack_maps
from con360av_jax.errors import DatasetError
from con360av_jax.media.mel import log_mel
from con360av_jax.scenes.panorama import render_frame, render_scene_background, render_views
from con360av_jax.scenes.scene import CLASSES, Scene
from con360av_jax.scenes.timbres import loudness_envelope, object_sound, scene_sound
from con360av_jax.scenes.version_2 import SPLIT_NUMBERS, SceneSplit, make_scene_2
from con360av_jax.scenes.views import SeenObject, Viewpoint, draw_viewpoints, seen_objects, view_caption
from con360av_jax.sphere.contrast import WORKING_HEIGHT, contrast_saliency

SAMPLES = 2**30
"""Length of every source."""
STILLS_PER_SCENE, CLIPS_PER_SCENE = 4, 2
"""Numbers of consecutive samples from one scene."""
_STILL, _CLIP = 3, 4  # first numbers of the seeds of what is drawn besides a scene

Drawn = TypeVar("Drawn")


class Described(TypedDict):
    """Texts and truth of a sample."""

    scene_caption: str
    """Caption of the whole scene, which does not say where the view looks."""
    view_caption: str
    """Caption of what the view shows."""
    seen: tuple[SeenObject, ...]
    """Objects in view in the middle frame, the nearest to the centre first."""
    place: str
    """Name of the scene's palette."""


class View(Described):
    """One view of a scene, during one frame or more."""

    video: UInt8[np.ndarray, "frame height width 3"]
    objects: Bool[np.ndarray, "frame height width"]
    """Pixels that show an object."""
    viewpoint: Float32[np.ndarray, "frame 4"]
    """Yaw, pitch and horizontal and vertical field of view, rad."""


class Clip(View):
    """One view of a whole scene with audio and maps."""

    sound: Int16[np.ndarray, "sample"]
    mel: Float32[np.ndarray, "time mel"]
    saliency: Float32[np.ndarray, "frame height width 1"]
    maps: Float32[np.ndarray, "frame height width 2"]
    """Saliency and BASD."""


class Audio(TypedDict):
    """The audio of a scene."""

    sound: Int16[np.ndarray, "sample"]
    mel: Float32[np.ndarray, "time mel"]
    scene_caption: str
    classes: tuple[str, ...]
    """Classes of all objects, all of which sound."""
    envelopes: Float32[np.ndarray, "time class"]
    """Envelope of each class of scene.CLASSES in each mel frame, from 0 to 1; 0 for classes that are not there."""


class SceneSource(ABC, Generic[Drawn]):
    """Random access to rendered samples: `source[n]` is sample number n.

    Raises DatasetError for a negative seed or an unknown split.
    """

    def __init__(self, seed: int, split: SceneSplit):
        if seed < 0 or split not in SPLIT_NUMBERS:
            raise DatasetError(
                f"seed {seed}, split {split!r}: give a seed from 0 on and one of {', '.join(SPLIT_NUMBERS)}"
            )
        self.seed = seed
        self.split: SceneSplit = split

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: SupportsIndex) -> Drawn:
        """Renders sample `index`; raises IndexError outside the source."""
        number = index.__index__()
        if not 0 <= number < SAMPLES:
            raise IndexError(f"sample {number} of {SAMPLES} in {self!r}")
        return self.render(number)

    @abstractmethod
    def render(self, number: int) -> Drawn:
        """Renders a sample whose number is within the source."""

    def generator(self, kind: int, number: int) -> np.random.Generator:
        """Source of what is drawn for one sample besides its scene."""
        return np.random.default_rng(np.random.SeedSequence([kind, SPLIT_NUMBERS[self.split], self.seed, number]))

    def __repr__(self) -> str:
        # Grain shows its sources in logs.
        return f"{type(self).__name__}(seed={self.seed}, split={self.split})"


class SceneStills(SceneSource[View]):
    """Single frames of scenes of `seconds`, height x width pixels."""

    def __init__(self, seed: int, height: int = 64, width: int = 64, seconds: float = 2.0, split: SceneSplit = "train"):
        super().__init__(seed, split)
        self.height, self.width, self.seconds = height, width, seconds

    def render(self, number: int) -> View:
        """See `SceneSource`."""
        scene = _scene(self.seed, number // STILLS_PER_SCENE, self.seconds, self.split)
        generator = self.generator(_STILL, number)
        time = float(generator.uniform(0, self.seconds))
        return _view(scene, np.array([time]), (self.height, self.width), generator)


class SceneVideos(SceneSource[View]):
    """The video part of `SceneClips`, in a third of the time: sample n shows what clip n shows."""

    def __init__(self, clip: ClipConfig, seed: int, split: SceneSplit = "train"):
        super().__init__(seed, split)
        self.clip = clip

    def render(self, number: int) -> View:
        """See `SceneSource`."""
        clip, generator = self.clip, self.generator(_CLIP, number)
        return _view(self.scene(number), self._times(), (clip.height, clip.width), generator)

    def scene(self, number: int) -> Scene:
        """Scene of clip `number`."""
        return _scene(self.seed, number // CLIPS_PER_SCENE, self.clip.seconds, self.split)

    def viewpoint(self, number: int) -> Viewpoint:
        """Viewpoint of clip `number`, which is not rendered."""
        return _drawn_viewpoint(self.scene(number), self._times(), self.generator(_CLIP, number))

    def _times(self) -> Float64[np.ndarray, "frame"]:
        return np.arange(self.clip.frames) / self.clip.frames_per_second


class SceneClips(SceneSource[Clip]):
    """Clips of scenes of the size of `clip`, with the arrays of a record; the viewpoint stands still."""

    def __init__(self, clip: ClipConfig, mel: MelConfig, seed: int, split: SceneSplit = "train"):
        super().__init__(seed, split)
        self.clip, self.mel = clip, mel
        self._videos = SceneVideos(clip, seed, split)

    def render(self, number: int) -> Clip:
        """See `SceneSource`."""
        view, index = self._videos.render(number), number // CLIPS_PER_SCENE
        sound, mel = _audio(self.seed, index, self.clip.seconds, self.split, self.mel)
        saliency = _saliency(self.seed, index, self.split, self.clip)
        return {
            **view,
            "sound": sound.copy(),
            "mel": mel.copy(),
            "saliency": saliency.copy(),
            "maps": stack_maps(saliency, view["viewpoint"]),
        }


class SceneAudio(SceneSource[Audio]):
    """Audio of scenes of `seconds`: mono, as records have it."""

    def __init__(self, mel: MelConfig, seed: int, seconds: float = 2.0, split: SceneSplit = "train"):
        super().__init__(seed, split)
        self.mel, self.seconds = mel, seconds

    def render(self, number: int) -> Audio:
        """See `SceneSource`."""
        scene = _scene(self.seed, number, self.seconds, self.split)
        sound, mel = _audio(self.seed, number, self.seconds, self.split, self.mel)
        classes = tuple(item.name for item in scene.objects)
        times = np.arange(len(mel)) / self.mel.frames_per_second
        envelopes = np.zeros((len(mel), len(CLASSES)), np.float32)
        for item in scene.objects:
            envelopes[:, CLASSES.index(item.name)] = loudness_envelope(item, times)
        return {
            "sound": sound.copy(),
            "mel": mel.copy(),
            "scene_caption": scene.caption,
            "classes": classes,
            "envelopes": envelopes,
        }


def _middle(times: Float64[np.ndarray, "frame"]) -> float:
    return float(times[len(times) // 2])


def _drawn_viewpoint(scene: Scene, times: Float64[np.ndarray, "frame"], generator: np.random.Generator) -> Viewpoint:
    (viewpoint,) = draw_viewpoints(scene, _middle(times), generator)
    return viewpoint


def _view(
    scene: Scene, times: Float64[np.ndarray, "frame"], size: tuple[int, int], generator: np.random.Generator
) -> View:
    """A scene at `times` (s) from a viewpoint that is drawn for the middle frame; several frames show motion."""
    viewpoint = _drawn_viewpoint(scene, times, generator)
    seen = seen_objects(scene, _middle(times), viewpoint)
    video, objects = render_views(scene, times, viewpoint, *size)
    return {
        "video": video,
        "objects": objects,
        "viewpoint": np.repeat(viewpoint[None], len(times), axis=0),
        "scene_caption": scene.caption,
        "view_caption": view_caption(scene, seen, viewpoint, generator, moves=len(times) > 1),
        "seen": seen,
        "place": scene.background.palette,
    }


@lru_cache(maxsize=16)
def _scene(seed: int, index: int, seconds: float, split: SceneSplit) -> Scene:
    return make_scene_2(seed, index, seconds, split)


@lru_cache(maxsize=4)
def _audio(
    seed: int, index: int, seconds: float, split: SceneSplit, settings: MelConfig
) -> tuple[Int16[np.ndarray, "sample"], Float32[np.ndarray, "time mel"]]:
    """Channel W of a scene's audio, as 16-bit samples, and its log-mel."""
    scene, rate = _scene(seed, index, seconds, split), settings.sample_rate
    sources = [object_sound(item, scene.seconds, rate) for item in scene.objects]
    sound = np.ascontiguousarray(scene_sound(scene, sources, rate)[:, 0])
    return sound, log_mel(sound.astype(np.float32) / 32768, settings)


@lru_cache(maxsize=4)
def _saliency(
    seed: int, index: int, split: SceneSplit, clip: ClipConfig
) -> Float32[np.ndarray, "frame height width 1"]:
    """Contrast saliency of a scene, from panoramas of the size at which it is computed."""
    scene, size = _scene(seed, index, clip.seconds, split), (WORKING_HEIGHT, 2 * WORKING_HEIGHT)
    background = render_scene_background(scene, *size)
    times = np.arange(clip.frames) / clip.frames_per_second
    frames = np.stack([render_frame(scene, float(time), *size, background) for time in times])
    return contrast_saliency(frames, clip.frames_per_second, clip.map_height, clip.map_width)[..., None]
