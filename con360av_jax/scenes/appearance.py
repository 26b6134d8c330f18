"""Appearance of the objects of procedural scenes: drawings in a place's light, and colour evidence of each class.

Colours u are RGB in BINS steps per channel. For a place with its light, its backgrounds, and classes k:
(1) object    P_k(u): share of the pixels of class k's drawings (each hue, at onsets and between) that fall into u
(2) rest      P_0(u) = half the share on backgrounds of the place, half that on drawings of the other classes
(3) evidence  L_k(u) = log((P_k(u) + c) / (P_0(u) + c)),  shares blurred by one bin, c: one bin of an even spread

Drawings and palettes are those that render the scenes (sprites.py, textures.py); nothing is fitted to generated clips.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter

from con360av_jax.errors import MetricError
from con360av_jax.scenes.scene import CLASSES
from con360av_jax.scenes.sprites import DRAWINGS, Canvas, Moment
from con360av_jax.scenes.textures import PALETTES, Background, render_background
from con360av_jax.sphere.geometry import directions

BINS = 16
SIDE = 24
"""Side of a drawing, pixels."""
REACH = 1.1
"""Distance from a drawing's centre to its sides, in angular radii of the object (as tangents)."""
EVIDENCE_RANGE = (-2.0, 4.0)
"""Limits of equation 3, so that no pixel outweighs a whole object."""
_HUES = (0.1, 0.5, 0.9)
"""One hue for each of a class's colours, which are at most three."""
_MOMENTS = ((0.02, 1.0), (0.12, 0.7), (0.3, 0.5), (np.inf, 0.0))
"""Times since the onset, s, and loudness of the drawings."""
_FINER = 4  # supersampling factor of the drawings
_BLUR = 1.0  # bins
_BACKGROUNDS = 8  # number rendered per place

Shares = Float[np.ndarray, "red green blue"]


@dataclass(frozen=True)
class Drawings:
    """Drawings of all classes in one light."""

    pictures: Float[np.ndarray, "drawing row column 3"]
    """RGB in 0..255 of the covered part."""
    cover: Float[np.ndarray, "drawing row column"]
    """Share of each pixel that the object covers."""
    classes: tuple[str, ...]
    """Class of each drawing."""


@lru_cache(maxsize=len(PALETTES))
def drawings(place: str) -> Drawings:
    """Drawings of every class in each colour, at an onset, after it and at rest, in the light of a place (a palette).

    Raises MetricError for an unknown place.
    """
    _check_known("place", place, tuple(PALETTES))
    count = _FINER * SIDE
    side = ((2 * (np.arange(count) + 0.5) / count - 1) * REACH).astype(np.float32)
    p, q = np.meshgrid(side, -side)
    kinds = [(name, hue, *moment) for name in CLASSES for hue in _HUES for moment in _MOMENTS]
    layers = []
    for name, hue, since, loudness in kinds:
        canvas = Canvas(p, q, pixel=2 * REACH / count)
        DRAWINGS[name](canvas, Moment(time=1.0, since=since, loudness=loudness, hue=hue))
        fine = np.ascontiguousarray(rearrange(canvas.layers, "layer row column -> row column layer"))
        layers.append(cv2.resize(fine, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    *_, cover = np.moveaxis(np.stack(layers), -1, 0)
    # The layers are premultiplied; colours without coverage are not used.
    colours = np.stack(layers)[..., :3] / np.maximum(cover, 1e-3)[..., None]
    lit = np.clip(colours * np.array(PALETTES[place].light, np.float32), 0, 255)
    return Drawings(lit.astype(np.float64), cover.astype(np.float64), tuple(name for name, *_ in kinds))


@lru_cache(maxsize=len(PALETTES) * len(CLASSES))
def colour_evidence(name: str, place: str) -> Shares:
    """Colour evidence of a class in a place (equation 3), natural logarithm, clipped; a read-only array.

    Raises MetricError for an unknown class or place.
    """
    _check_known("class", name, CLASSES)
    others = np.mean([_object_shares(other, place) for other in CLASSES if other != name], axis=0)
    rest = (others + _background_shares(place)) / 2
    even = 1 / BINS**3
    evidence = np.clip(np.log((_object_shares(name, place) + even) / (rest + even)), *EVIDENCE_RANGE)
    evidence.flags.writeable = False
    return evidence


def pixel_evidence(
    picture: UInt8[np.ndarray, "height width 3"], name: str, place: str
) -> Float[np.ndarray, "height width"]:
    """Colour evidence of a class at each pixel (equation 3); raises MetricError as `colour_evidence` does."""
    red, green, blue = np.moveaxis(picture // (256 // BINS), -1, 0)
    return colour_evidence(name, place)[red, green, blue]


def _check_known(kind: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise MetricError(f"scenes have no {kind} {given!r}: give truth with one of {', '.join(known)}")


@lru_cache(maxsize=len(PALETTES) * len(CLASSES))
def _object_shares(name: str, place: str) -> Shares:
    """Colour shares of a class's drawings (equation 1)."""
    drawn = drawings(place)
    chosen = (drawn.cover > 0.9) & (np.array(drawn.classes) == name)[:, None, None]
    return _shares(drawn.pictures[chosen])


@lru_cache(maxsize=len(PALETTES))
def _background_shares(place: str) -> Shares:
    # Without the rows near the poles, which are larger on the panorama than in views.
    rays = directions(48, 96)[6:-6]
    turns = np.linspace(-np.pi, np.pi, _BACKGROUNDS, endpoint=False)
    pictures = [
        render_background(
            Background(palette=place, sun_longitude=float(turn), sun_latitude=np.radians(25), noise_seed=seed), rays
        )
        for seed, turn in enumerate(turns)
    ]
    return _shares(rearrange(pictures, "picture row column rgb -> (picture row column) rgb"))


def _shares(colours: Float[np.ndarray, "pixel 3"] | UInt8[np.ndarray, "pixel 3"]) -> Shares:
    edges = np.linspace(0, 256, BINS + 1)
    counts = np.histogramdd(np.asarray(colours, np.float64), bins=[edges] * 3)[0]
    blurred = gaussian_filter(counts / counts.sum(), _BLUR, mode="nearest")
    return blurred / blurred.sum()
