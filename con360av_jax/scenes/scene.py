"""Procedural scenes as plain values: their objects, the motion of each on the sphere, and its notes.

Directions are longitude (rad, positive to the right of the image centre) and latitude (rad, positive up). An object of
physical radius r at distance D has the angular radius atan(r / D), and its sound has the gain 2 m / D (equation 1).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from con360av_jax.scenes.captions import describe
from con360av_jax.scenes.sprites import COLOURS
from con360av_jax.scenes.textures import PALETTES, Background

CLASSES = ("bell", "drum", "whistle", "engine", "chirp", "voice")
"""Object classes; each has its own appearance (sprites.py) and timbre (timbres.py)."""

REFERENCE_DISTANCE = 2.0
"""Distance at which the gain of an object's sound is 1, m."""
NEAREST, FARTHEST = 1.7, 5.0
RADII = {"bell": 0.5, "drum": 0.58, "whistle": 0.45, "engine": 0.62, "chirp": 0.45, "voice": 0.5}
"""Physical radius, m."""
LATITUDES = {"bell": (0, 40), "drum": (-30, 5), "whistle": (-15, 30), "engine": (-30, 0), "chirp": (5, 60),
             "voice": (-15, 20)}  # fmt: skip
"""Range of start latitudes, degrees."""
PACES = {"bell": (1.0, 2.0), "drum": (0.35, 0.8), "whistle": (0.8, 1.6), "engine": (1.4, 2.6), "chirp": (0.2, 0.26),
         "voice": (0.3, 0.5)}  # fmt: skip
"""Shortest and longest time between two onsets, s."""
LENGTHS = {"bell": 1.6, "drum": 0.4, "whistle": 0.5, "engine": 0.9, "chirp": 0.11, "voice": 0.26}
"""Longest duration of one note, s."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Smooth path along a great circle or a circle of latitude, with a small oscillation, between two distances."""

    kind: str
    """Kind of path: "great circle" or "drift" (along the circle of latitude)."""
    longitude: float
    latitude: float
    heading: float
    """Initial direction of travel, rad: for a great circle from right (0) to up (pi/2); for drift 0 right, pi left."""
    speed: float
    """Speed of longitude or along the great circle, rad/s."""
    bob: float
    """Amplitude of a slow oscillation of latitude, rad."""
    bob_phase: float
    start_distance: float
    """Distance at the start, m."""
    end_distance: float
    """Distance at the end, m."""

    def angles(self, times: Float[np.ndarray, "*shape"]) -> tuple[np.ndarray, np.ndarray]:
        """Longitude in [-pi, pi) and latitude at `times` (s), both rad."""
        times = np.asarray(times, np.float64)
        travelled = self.speed * times
        if self.kind == "drift":
            longitude = self.longitude + np.cos(self.heading) * travelled
            latitude = np.full_like(times, self.latitude)
        else:
            # In coordinates with x to the starting point, y to its right and z up, then rotated to the world.
            ahead, right, up = (
                np.cos(travelled),
                np.sin(travelled) * np.cos(self.heading),
                np.sin(travelled) * np.sin(self.heading),
            )
            height = ahead * np.sin(self.latitude) + up * np.cos(self.latitude)
            forward = ahead * np.cos(self.latitude) - up * np.sin(self.latitude)
            latitude = np.arcsin(np.clip(height, -1, 1))
            longitude = self.longitude + np.arctan2(right, forward)
        latitude = latitude + self.bob * np.sin(2 * np.pi * 0.35 * times + self.bob_phase)
        return (longitude + np.pi) % (2 * np.pi) - np.pi, np.clip(latitude, -np.pi / 2, np.pi / 2)

    def distance(self, times: Float[np.ndarray, "*shape"], seconds: float) -> np.ndarray:
        """Distance at `times` (s) in a scene of `seconds`, m: its logarithm changes linearly, eased at both ends."""
        share = np.clip(np.asarray(times, np.float64) / seconds, 0, 1)
        eased = share * share * (3 - 2 * share)
        return self.start_distance * (self.end_distance / self.start_distance) ** eased


@dataclass(frozen=True, kw_only=True)
class Note:
    """One sound event of an object, which is also visible."""

    onset: float
    """Start of the note, s."""
    seconds: float
    """Duration before the decay, s."""
    pitch: float
    """Factor on the object's base frequency."""


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One visible and audible object."""

    name: str
    """Class, one of CLASSES."""
    radius: float
    """Physical radius, m."""
    hue: float
    """Choice among the class's colours, 0..1."""
    pitch: float
    """Factor on the class's base frequency."""
    motion: Motion
    notes: tuple[Note, ...]
    noise_seed: int

    def angular_radius(self, times: Float[np.ndarray, "*shape"], seconds: float) -> np.ndarray:
        """Angle between the object's centre and its edge at `times`, rad."""
        return np.arctan(self.radius / self.motion.distance(times, seconds))

    def gain(self, times: Float[np.ndarray, "*shape"], seconds: float) -> np.ndarray:
        """Gain of the object's sound at `times` (s), equation 1."""
        return REFERENCE_DISTANCE / self.motion.distance(times, seconds)

    @property
    def colour(self) -> str:
        """Name of the object's colour."""
        return COLOURS[self.name][int(self.hue * len(COLOURS[self.name])) % len(COLOURS[self.name])]

    @property
    def onsets(self) -> Float[np.ndarray, "note"]:
        """Start of every note, s."""
        return np.array([note.onset for note in self.notes])


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Complete description of a clip before rendering."""

    seconds: float
    background: Background
    objects: tuple[SceneObject, ...]
    reverberation: float
    """Amplitude of the late echo; 0 outdoors."""
    noise_seed: int
    caption: str
    version: int = 1
    """Version of the rules that made it."""
    split: str = ""
    """Split of a scene of version 2."""


def make_scene(seed: int, index: int = 0, seconds: float = 10.0) -> Scene:
    """Scene number `index` of a set of version 1; deterministic, from SeedSequence([seed, index])."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, index]))
    palette = str(generator.choice(list(PALETTES)))
    background = draw_background(palette, generator)
    names = generator.permutation(CLASSES)[: generator.integers(2, 6)]
    objects: list[SceneObject] = []
    for name in names:
        objects.append(_make_object(str(name), objects, seconds, generator))
    return Scene(
        seconds=seconds,
        background=background,
        objects=tuple(objects),
        reverberation=float(generator.uniform(0.0, 0.08)),
        noise_seed=int(generator.integers(2**32)),
        caption=_caption(objects, palette, seconds, generator),
    )


def draw_background(palette: str, generator: np.random.Generator) -> Background:
    """A background of `palette`, with random sun and noise."""
    return Background(
        palette=palette,
        sun_longitude=float(generator.uniform(-np.pi, np.pi)),
        sun_latitude=float(np.radians(generator.uniform(4, 12) if palette == "sunset" else generator.uniform(15, 55))),
        noise_seed=int(generator.integers(2**32)),
    )


def _make_object(name: str, others: list[SceneObject], seconds: float, generator: np.random.Generator) -> SceneObject:
    """An object with the path, out of six, that stays farthest from the other objects, to avoid occlusion."""
    times = np.linspace(0, seconds, 7)
    candidates = [draw_motion(LATITUDES[name], (NEAREST, FARTHEST), generator) for _ in range(6)]
    taken = [_unit_vectors(other.motion, times) for other in others]
    largest_cosines = []
    for candidate in candidates:
        own = _unit_vectors(candidate, times)
        largest_cosines.append(max((float((own * other).sum(axis=0).max()) for other in taken), default=0.0))
    return SceneObject(
        name=name,
        radius=float(RADII[name] * generator.uniform(0.85, 1.15)),
        hue=float(generator.uniform()),
        pitch=float(2 ** generator.uniform(-0.4, 0.4)),
        motion=candidates[int(np.argmin(largest_cosines))],
        notes=_make_notes(name, seconds, generator),
        noise_seed=int(generator.integers(2**32)),
    )


def _unit_vectors(motion: Motion, times: Float[np.ndarray, "time"]) -> Float[np.ndarray, "3 time"]:
    longitude, latitude = motion.angles(times)
    flat = np.cos(latitude)
    return np.stack([flat * np.sin(longitude), np.sin(latitude), flat * np.cos(longitude)])


def draw_motion(
    latitudes: tuple[float, float], distances: tuple[float, float], generator: np.random.Generator
) -> Motion:
    """A random path that starts at one of `latitudes` (a range, degrees), within a range of distances (m)."""
    (low, high), (nearest, farthest) = latitudes, distances
    still, great_circle = generator.uniform() < 0.25, generator.uniform() < 0.45
    heading = float(generator.choice([0.0, np.pi]))
    if great_circle:
        heading += generator.uniform(-0.5, 0.5)
    start = np.exp(generator.uniform(np.log(nearest), np.log(farthest)))
    ratio = 2 ** (generator.uniform(-1.2, 1.2) if generator.uniform() < 0.6 else generator.uniform(-0.1, 0.1))
    return Motion(
        kind="great circle" if great_circle else "drift",
        longitude=float(generator.uniform(-np.pi, np.pi)),
        latitude=float(np.radians(generator.uniform(low, high))),
        heading=float(heading),
        speed=0.0 if still else float(np.radians(generator.uniform(4, 16))),
        bob=float(np.radians(generator.uniform(0.5, 3.0))),
        bob_phase=float(generator.uniform(0, 2 * np.pi)),
        start_distance=float(start),
        end_distance=float(np.clip(start * ratio, nearest, farthest)),
    )


def _make_notes(name: str, seconds: float, generator: np.random.Generator) -> tuple[Note, ...]:
    """Notes of an object at a random pace; birds and voices pause between groups of notes."""
    shortest, longest = PACES[name]
    pace, grouped = generator.uniform(shortest, longest), name in ("chirp", "voice")
    time, left, notes = float(generator.uniform(0.1, 0.6)), int(generator.integers(2, 6)), []
    # The last note starts early enough to be audible and visible.
    while time < seconds - min(0.25, seconds / 4) or not notes:
        length = LENGTHS[name] * float(generator.uniform(0.75, 1.0))
        pitch = 2 ** (int(generator.integers(-4, 5)) / 12) if name in ("whistle", "voice", "chirp") else 1.0
        notes.append(Note(onset=min(time, seconds / 2) if not notes else time, seconds=length, pitch=float(pitch)))
        left -= 1
        time += pace * float(generator.uniform(0.9, 1.1))
        if grouped and left <= 0:
            time, left = time + float(generator.uniform(0.5, 1.2)), int(generator.integers(2, 6))
    return tuple(notes)


def _caption(objects: list[SceneObject], palette: str, seconds: float, generator: np.random.Generator) -> str:
    ends = np.array([0.0, seconds])
    tracks = [
        (item.name, *item.motion.angles(ends), item.motion.distance(ends, seconds), item.motion.speed * seconds)
        for item in objects
    ]
    return describe(tracks, PALETTES[palette].place, generator)
