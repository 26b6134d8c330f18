"""Captions of procedural scenes of version 1: one sentence with the class, place and motion of each object."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Track = tuple[str, Float[np.ndarray, "2"], Float[np.ndarray, "2"], Float[np.ndarray, "2"], float]
"""Class; start and end of longitude (rad), latitude (rad) and distance (m); angle travelled (rad)."""

SUBJECTS = {
    "bell": ("a bell rings", "a bell tolls", "a golden bell chimes"),
    "drum": ("a drum beats", "a drum pounds", "a drum is played"),
    "whistle": ("a whistle blows", "a whistle trills", "a whistle calls"),
    "engine": ("an engine runs", "an engine roars", "an engine rumbles"),
    "chirp": ("a bird chirps", "a small bird chirps", "a bird sings and chirps"),
    "voice": ("a voice sings", "a human voice sings", "a voice calls out"),
}
PLACES = {"front": "in front", "right": "on the right", "back": "behind", "left": "on the left"}
TARGETS = {"front": "the front", "right": "the right", "back": "the back", "left": "the left"}
STILL = np.radians(15)
FAST = np.radians(100)


def region(longitude: float) -> str:
    """Quarter around the viewer ("front", "right", ...) that contains a longitude (rad, positive to the right)."""
    return ("front", "right", "back", "left")[int(np.floor((np.degrees(longitude) + 45) / 90)) % 4]


def describe(tracks: Sequence[Track], place: str, generator: np.random.Generator) -> str:
    """One sentence of fewer than 60 words about all `tracks`, with its wording drawn from `generator`.

    Scenes with many objects get shorter clauses, because CLIP reads at most 77 tokens.
    """
    clauses = [_clause(track, len(tracks), generator) for track in tracks]
    sentence = clauses[0]
    for number, clause in enumerate(clauses[1:], start=2):
        join = ", while " if number == 2 else ", and " if number == len(clauses) else ", "
        sentence += join + clause
    sentence = f"{place}, {sentence}" if generator.uniform() < 0.5 else f"{sentence}, {place}"
    return f"{sentence[0].upper()}{sentence[1:]}."


def _clause(track: Track, crowd: int, generator: np.random.Generator) -> str:
    name, longitude, latitude, distance, travelled = track
    wording = int(generator.integers(len(SUBJECTS[name]))) if crowd < 4 else 0
    first, last = region(float(longitude[0])), region(float(longitude[1]))
    height = "high up " if latitude[0] > np.radians(35) and crowd < 4 else ""
    clause = f"{SUBJECTS[name][wording]} {height}{PLACES[first]}"
    if travelled >= STILL and first != last:
        pace = ("quickly " if travelled > FAST else "slowly ") if crowd < 5 else ""
        return f"{clause}, moving {pace}to {TARGETS[last]}"
    if distance[0] / distance[1] > 1.4:
        return f"{clause}, coming closer"
    if distance[1] / distance[0] > 1.4:
        return f"{clause}, moving away"
    return clause
