"""Procedural scenes as plain values: which objects there are, how each moves on the sphere and when it sounds.

Directions are longitude (rad, positive to the right of the image centre) and latitude (rad, positive up). An object of
physical radius r at distance D has the angular radius atan(r / D), and its sound has the gain 2 m / D (equation 1):
what is near is larger and louder.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from con360av_jax.scenes.captions import describe
from con360av_jax.scenes.textures import PALETTES, Background

CLASSES = ("bell", "drum", "whistle", "engine", "chirp", "voice")
"""What an object can be; each has a look of its own (sprites.py) and a sound of its own (timbres.py)."""

REFERENCE_DISTANCE = 2.0
"""Distance at which an object's sound has the gain 1, m."""
NEAREST, FARTHEST = 1.7, 5.0
RADII = {"bell": 0.5, "drum": 0.58, "whistle": 0.45, "engine": 0.62, "chirp": 0.45, "voice": 0.5}
"""Physical radius, m."""
LATITUDES = {"bell": (0, 40), "drum": (-30, 5), "whistle": (-15, 30), "engine": (-30, 0), "chirp": (5, 60),
             "voice": (-15, 20)}  # fmt: skip
"""Range of latitudes where an object starts, degrees."""
PACES = {"bell": (1.0, 2.0), "drum": (0.35, 0.8), "whistle": (0.8, 1.6), "engine": (1.4, 2.6), "chirp": (0.2, 0.26),
         "voice": (0.3, 0.5)}  # fmt: skip
"""Shortest and longest time between two onsets, s."""
LENGTHS = {"bell": 1.6, "drum": 0.4, "whistle": 0.5, "engine": 0.9, "chirp": 0.11, "voice": 0.26}
"""How long one note sounds, s; at most this."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """A smooth path: along a great circle or a circle of latitude, bobbing a little, between two distances."""

    kind: str
    """"great circle" or "drift" (along the circle of latitude)."""
    longitude: float
    latitude: float
    heading: float
    """Great circle: direction of travel at the start, rad from right (0) to up (pi/2). Drift: 0 right, pi left."""
    speed: float
    """rad/s of longitude or along the great circle."""
    bob: float
    """Amplitude of a slow up and down, rad."""
    bob_phase: float
    start_distance: float
    """m."""
    end_distance: float
    """m."""

    def angles(self, times: Float[np.ndarray, "*shape"]) -> tuple[np.ndarray, np.ndarray]:
        """Longitude in [-pi, pi) and latitude at `times` (s), both rad."""
        times = np.asarray(times, np.float64)
        travelled = self.speed * times
        if self.kind == "drift":
            longitude = self.longitude + np.cos(self.heading) * travelled
            latitude = np.full_like(times, self.latitude)
        else:
            # In the frame whose x axis is the starting point, y its right and z its up, then turned to the world.
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
        """Distance in m at `times` (s) in a scene of `seconds`; an even change of its logarithm, eased at both ends."""
        share = np.clip(np.asarray(times, np.float64) / seconds, 0, 1)
        eased = share * share * (3 - 2 * share)
        return self.start_distance * (self.end_distance / self.start_distance) ** eased


@dataclass(frozen=True, kw_only=True)
class Note:
    """One sound with a sudden start, and the event that is seen with it."""

    onset: float
    """s."""
    seconds: float
    """How long it is held before it dies away."""
    pitch: float
    """Factor on the object's base frequency."""


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One thing that is seen and heard."""

    name: str
    """One of CLASSES."""
    radius: float
    """m."""
    hue: float
    """0..1: which of the class's colours."""
    pitch: float
    """Factor on the class's base frequency."""
    motion: Motion
    notes: tuple[Note, ...]
    noise_seed: int

    def angular_radius(self, times: Float[np.ndarray, "*shape"], seconds: float) -> np.ndarray:
        """Angle between the object's centre and its edge at `times`, rad."""
        return np.arctan(self.radius / self.motion.distance(times, seconds))

    def gain(self, times: Float[np.ndarray, "*shape"], seconds: float) -> np.ndarray:
        """Equation 1: REFERENCE_DISTANCE / distance."""
        return REFERENCE_DISTANCE / self.motion.distance(times, seconds)

    @property
    def onsets(self) -> Float[np.ndarray, "note"]:
        """Start of every note, s."""
        return np.array([note.onset for note in self.notes])


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A whole clip, before anything is drawn or sounded."""

    seconds: float
    background: Background
    objects: tuple[SceneObject, ...]
    reverberation: float
    """Amplitude of the late echo, 0 is outdoors."""
    noise_seed: int
    caption: str


def make_scene(seed: int, index: int = 0, seconds: float = 10.0) -> Scene:
    """Scene number `index` of a set: a pure function of its arguments, from SeedSequence([seed, index])."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, index]))
    palette = str(generator.choice(list(PALETTES)))
    background = Background(
        palette=palette,
        sun_longitude=float(generator.uniform(-np.pi, np.pi)),
        sun_latitude=float(np.radians(generator.uniform(4, 12) if palette == "sunset" else generator.uniform(15, 55))),
        noise_seed=int(generator.integers(2**32)),
    )
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


def _make_object(name: str, others: list[SceneObject], seconds: float, generator: np.random.Generator) -> SceneObject:
    """One object on the path, of a few drawn, that keeps farthest from the others: none should hide another."""
    times = np.linspace(0, seconds, 7)
    candidates = [_make_motion(name, generator) for _ in range(6)]
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


def _make_motion(name: str, generator: np.random.Generator) -> Motion:
    low, high = LATITUDES[name]
    still, great_circle = generator.uniform() < 0.25, generator.uniform() < 0.45
    heading = float(generator.choice([0.0, np.pi]))
    if great_circle:
        heading += generator.uniform(-0.5, 0.5)
    start = np.exp(generator.uniform(np.log(NEAREST), np.log(FARTHEST)))
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
        end_distance=float(np.clip(start * ratio, NEAREST, FARTHEST)),
    )


def _make_notes(name: str, seconds: float, generator: np.random.Generator) -> tuple[Note, ...]:
    """Notes at a rhythm of their own per object; birds and voices group them and rest between groups."""
    shortest, longest = PACES[name]
    pace, grouped = generator.uniform(shortest, longest), name in ("chirp", "voice")
    time, left, notes = float(generator.uniform(0.1, 0.6)), int(generator.integers(2, 6)), []
    # The last note starts early enough to be heard and seen.
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
    tracks = []
    for item in objects:
        longitude, latitude = item.motion.angles(ends)
        tracks.append(
            (item.name, longitude, latitude, item.motion.distance(ends, seconds), item.motion.speed * seconds)
        )
    return describe(tracks, PALETTES[palette].place, generator)
