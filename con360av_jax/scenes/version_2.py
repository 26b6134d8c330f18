"""Version 2 of the procedural scenes, in which caption and viewpoint decide what is asked for.

A scene is as long as its clip, and each of its 2 to 4 objects
(1) has a class of its own, and a quarter around the viewer (front, right, back, left) that it stays in,
(2) is at all times at least 60 degrees from every other object and 1.5 to 3.2 m away,
(3) starts at least one note, at least 0.4 s after and before the notes of other objects.

Scenes of the train and the validation split differ for any seeds. Training scenes never have a class in the place of
HELD_OUT; validation scenes may have any class in any place.
"""

from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from con360av_jax.errors import DatasetError
from con360av_jax.scenes.captions_2 import describe_scene
from con360av_jax.scenes.scene import (
    CLASSES,
    LATITUDES,
    LENGTHS,
    PACES,
    RADII,
    Motion,
    Note,
    Scene,
    SceneObject,
    draw_background,
    draw_motion,
)
from con360av_jax.scenes.textures import PALETTES
from con360av_jax.scenes.views import said
from con360av_jax.sphere.geometry import direction_from_angles

SceneSplit: TypeAlias = Literal["train", "validation"]
HELD_OUT = {
    "bell": "sea", "drum": "snow", "whistle": "desert", "engine": "meadow", "chirp": "night", "voice": "square",
}  # fmt: skip
"""Place of each class that no training scene has."""
NEAREST, FARTHEST = 1.5, 3.2
"""Range of distances, m."""
LEAST_ANGLE = np.radians(60)
"""Smallest angle between two objects, rad."""
LEAST_GAP = 0.4
"""Shortest time between onsets of different objects, s."""
LEAST_SECONDS = 1.0
MOST_OBJECTS = 4
_SPREAD = np.radians(30)  # largest turn of an object from the middle of its quarter at the start
_LIMIT = np.radians(40)  # and at any time
_FIRST = 0.05, 0.25  # range of the first onset, s
_LAST = 0.3  # s before the end, the latest onset
_SHRINK = 0.95  # factor on spread and speed after each draw that breaks a rule
SPLIT_NUMBERS: dict[SceneSplit, int] = {"train": 0, "validation": 1}


def make_scene_2(seed: int, index: int = 0, seconds: float = 2.0, split: SceneSplit = "train") -> Scene:
    """Scene number `index` of a set of version 2; the same for equal arguments.

    Raises DatasetError for scenes shorter than LEAST_SECONDS.
    """
    if seconds < LEAST_SECONDS:
        raise DatasetError(f"scenes of version 2 last at least {LEAST_SECONDS:g} s, but {seconds:g} s were asked for")
    generator = np.random.default_rng(np.random.SeedSequence([2, SPLIT_NUMBERS[split], seed, index]))
    palette = str(generator.choice(list(PALETTES)))
    background = draw_background(palette, generator)
    # Every object needs room for a note.
    most = min(MOST_OBJECTS, 1 + int((seconds - _FIRST[1] - _LAST) / LEAST_GAP))
    count = int(generator.integers(2, most + 1))
    allowed = [name for name in CLASSES if split == "validation" or HELD_OUT[name] != palette]
    names = [str(name) for name in generator.permutation(allowed)[:count]]
    motions = _draw_motions(names, seconds, generator)
    notes = _draw_notes(names, seconds, generator)
    objects = tuple(
        SceneObject(
            name=name,
            radius=float(RADII[name] * generator.uniform(0.85, 1.15)),
            hue=float(generator.uniform()),
            pitch=float(2 ** generator.uniform(-0.4, 0.4)),
            motion=motion,
            notes=own,
            noise_seed=int(generator.integers(2**32)),
        )
        for name, motion, own in zip(names, motions, notes, strict=True)
    )
    return Scene(
        seconds=seconds,
        background=background,
        objects=objects,
        reverberation=float(generator.uniform(0.0, 0.08)),
        noise_seed=int(generator.integers(2**32)),
        caption=describe_scene([said(item, seconds) for item in objects], palette, generator),
        version=2,
        split=split,
    )


def _draw_motions(names: list[str], seconds: float, generator: np.random.Generator) -> list[Motion]:
    """One path for each object, in quarters of their own, by rules 1 and 2; redrawn until they are kept."""
    quarters = generator.permutation(4)[: len(names)]
    centres = [float(quarter) * np.pi / 2 for quarter in quarters]
    times, freedom = np.linspace(0, seconds, 9), 1.0
    while True:
        motions = [_draw_motion(name, centre, freedom, generator) for name, centre in zip(names, centres, strict=True)]
        paths = [motion.angles(times) for motion in motions]
        turns = np.array([longitude - centre for (longitude, _), centre in zip(paths, centres, strict=True)])
        rays = np.stack([direction_from_angles(*path) for path in paths])
        cosines = np.einsum("itc,jtc->ijt", rays, rays)[~np.eye(len(names), dtype=bool)]
        if (np.abs(np.angle(np.exp(1j * turns))) < _LIMIT).all() and (cosines < np.cos(LEAST_ANGLE)).all():
            return motions
        freedom *= _SHRINK


def _draw_motion(name: str, centre: float, freedom: float, generator: np.random.Generator) -> Motion:
    """A path that starts near the longitude `centre`; less `freedom` draws it nearer and slower."""
    longitude = centre + freedom * generator.uniform(-_SPREAD, _SPREAD)
    drawn = draw_motion(LATITUDES[name], (NEAREST, FARTHEST), generator)
    return replace(drawn, longitude=float(longitude), speed=drawn.speed * freedom)


def _draw_notes(names: list[str], seconds: float, generator: np.random.Generator) -> list[tuple[Note, ...]]:
    """Notes of each object by rule 3: every object once in random order, then objects at random until the end."""
    notes: list[list[Note]] = [[] for _ in names]
    time = float(generator.uniform(*_FIRST))
    waiting = [int(number) for number in generator.permutation(len(names))]
    last = -1
    while waiting or time <= seconds - _LAST:
        # Time left when every waiting object still gets its turn.
        spare = max(0.0, seconds - _LAST - time - LEAST_GAP * max(0, len(waiting) - 1))
        chosen = waiting.pop() if waiting else int(generator.choice([n for n in range(len(names)) if n != last]))
        name = names[chosen]
        pace = float(generator.uniform(*PACES[name]))
        most = 3 if name in ("chirp", "voice") else 1
        repeats = min(int(generator.integers(1, most + 1)), 1 + int(spare / 2 / pace))
        for number in range(repeats):
            time += pace if number else 0.0
            notes[chosen].append(_draw_note(name, time, generator))
        left = max(0.0, spare - (repeats - 1) * pace)
        time += LEAST_GAP + float(generator.uniform(0, min(0.5, left / (1 + len(waiting)))))
        last = chosen
    return [tuple(own) for own in notes]


def _draw_note(name: str, onset: float, generator: np.random.Generator) -> Note:
    pitch = 2 ** (int(generator.integers(-4, 5)) / 12) if name in ("whistle", "voice", "chirp") else 1.0
    return Note(onset=onset, seconds=LENGTHS[name] * float(generator.uniform(0.75, 1.0)), pitch=float(pitch))


def smallest_angle(scene: Scene, times: Float[np.ndarray, "time"]) -> float:
    """Smallest angle between two objects of a scene at `times` (s), rad."""
    rays = np.stack([direction_from_angles(*item.motion.angles(times)) for item in scene.objects])
    cosines = np.einsum("itc,jtc->ijt", rays, rays)[~np.eye(len(rays), dtype=bool)]
    return float(np.arccos(np.clip(cosines, -1, 1)).min())
