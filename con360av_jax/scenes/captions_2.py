"""Captions of procedural scenes of version 2: of a whole scene, and of what one view of it shows.

A scene caption names colour, class, quarter around the viewer and motion of every object; a view caption names those
in view without their quarter, or else what the background shows. `vocabulary` lists all words of both.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from con360av_jax.scenes.captions import PLACES, region
from con360av_jax.scenes.sprites import COLOURS
from con360av_jax.scenes.textures import PALETTES

NOUNS = {"bell": "bell", "drum": "drum", "whistle": "whistle", "engine": "engine", "chirp": "bird", "voice": "face"}
VERBS = {
    "bell": ("rings", "tolls", "chimes"),
    "drum": ("beats", "pounds", "is played"),
    "whistle": ("blows", "trills", "shrieks"),
    "engine": ("runs", "roars", "rumbles"),
    "chirp": ("chirps", "tweets", "chirps and tweets"),
    "voice": ("sings", "calls out", "hums"),
}
NOTHING = ("nothing but", "only", "no object, only")
HIGH, LOW = np.radians(35), np.radians(-20)
"""Latitudes above and below which a scene caption says "high up" and "low"."""
LEAST_TURN = np.radians(8)
"""Smallest change of longitude that a caption calls motion, rad."""
LEAST_RATIO = 1.25
"""Smallest ratio of distances that a caption calls coming closer or moving away."""
_MOTIONS = (("moving left", "moving right"), ("moving away", "coming closer"))


@dataclass(frozen=True, kw_only=True)
class Said:
    """Values of an object that captions describe, each at the start and the end of the time that they describe."""

    name: str
    """Class."""
    colour: str
    longitude: tuple[float, float]
    """Longitude, rad, positive to the right."""
    latitude: tuple[float, float]
    distance: tuple[float, float]
    """Distance, m."""

    @property
    def motion(self) -> str:
        """Largest motion, or an empty text if there is none to speak of."""
        turn = float(np.angle(np.exp(1j * (self.longitude[1] - self.longitude[0]))))
        nearer = float(np.log(self.distance[0] / self.distance[1]))
        strengths = (turn / LEAST_TURN, nearer / np.log(LEAST_RATIO))
        kind = int(np.argmax(np.abs(strengths)))
        return _MOTIONS[kind][int(strengths[kind] > 0)] if abs(strengths[kind]) >= 1 else ""


def describe_scene(objects: Sequence[Said], palette: str, generator: np.random.Generator) -> str:
    """One sentence about all `objects`, with its wording drawn from `generator`."""
    return _sentence([_clause(item, True, generator) for item in objects], palette, generator)


def describe_view(
    objects: Sequence[Said], palette: str, elevations: tuple[float, float], generator: np.random.Generator
) -> str:
    """One sentence about the `objects` in view, or, without any, about the background.

    Args:
        objects: objects in view.
        palette: the scene's palette.
        elevations: latitude of the lower and upper edge of the view in its middle column, rad.
        generator: source of the wording.
    """
    if objects:
        return _sentence([_clause(item, False, generator) for item in objects], palette, generator)
    word = NOTHING[int(generator.integers(len(NOTHING)))]
    return _sentence([f"{word} {_listed(background_parts(palette, elevations))}"], palette, generator)


def background_parts(palette: str, elevations: tuple[float, float]) -> list[str]:
    """Parts of the background between two latitudes (rad), from above: sky, hills, ground or water."""
    low, high = np.degrees(elevations)
    shown = {"sky": high > 10, "hills": low < 5 and high > 2, "water" if palette == "sea" else "ground": low < -2}
    return [name for name, visible in shown.items() if visible]


def still(item: Said) -> Said:
    """The same object without motion, as a single picture shows it."""
    return replace(
        item, longitude=(item.longitude[0],) * 2, latitude=(item.latitude[0],) * 2, distance=(item.distance[0],) * 2
    )


def vocabulary() -> tuple[str, ...]:
    """All words of all captions of version 2, in lower case and sorted."""
    places = (palette.place for palette in PALETTES.values())
    verbs = (verb for own in VERBS.values() for verb in own)
    colours = (colour for own in COLOURS.values() for colour in own)
    motions = (motion for pair in _MOTIONS for motion in pair)
    rest = "a an high up low while and sky hills water ground"
    parts = (*motions, *NOTHING, *NOUNS.values(), *PLACES.values(), rest)
    return tuple(sorted(words([*places, *verbs, *colours, *parts])))


def words(texts: Iterable[str]) -> set[str]:
    """Different words of `texts`, in lower case, without punctuation."""
    return {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}


def _clause(item: Said, whole_scene: bool, generator: np.random.Generator) -> str:
    verb = VERBS[item.name][int(generator.integers(len(VERBS[item.name])))]
    clause = f"{_article(item.colour)} {item.colour} {NOUNS[item.name]} {verb}"
    if whole_scene:
        height = " high up" if item.latitude[0] > HIGH else " low" if item.latitude[0] < LOW else ""
        clause += f"{height} {PLACES[region(item.longitude[0])]}"
    return f"{clause}, {item.motion}" if item.motion else clause


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _sentence(clauses: Sequence[str], palette: str, generator: np.random.Generator) -> str:
    place = PALETTES[palette].place
    text = clauses[0]
    for number, clause in enumerate(clauses[1:], start=2):
        text += (", while " if number == 2 else ", and " if number == len(clauses) else ", ") + clause
    text = f"{place}, {text}" if generator.uniform() < 0.5 else f"{text}, {place}"
    return f"{text[0].upper()}{text[1:]}."
