"""Backgrounds of the procedural scenes: sky, clouds, hills and ground as functions of direction, without a seam.

Noise is value noise on a random cubic lattice, sampled at points that depend only on the direction: on the unit sphere
for the texture of hills, on a plane above the viewer for clouds and below for the ground, which gives perspective.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from con360av_jax.scenes.grids import Grid, PanoramaGrid

LATTICE = 32
Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours of one place, RGB in 0..255."""

    place: str
    """Phrase for the place in captions."""
    zenith: Colour
    horizon: Colour
    cloud: Colour
    cloud_cover: float
    """Cloud cover, from 0 (clear) to 1 (overcast)."""
    hills: Colour
    ground_near: Colour
    ground_far: Colour
    pattern: str
    """Pattern of the ground: grain, ripples or tiles."""
    sun: Colour
    sun_size: float
    """Radius of the sun or moon, rad."""
    stars: float = 0.0
    """Brightness of stars, 0..1."""
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors of the light on the colours of objects."""


PALETTES = {
    "meadow": Palette(
        place="on a sunny meadow", zenith=(52, 116, 204), horizon=(190, 222, 244), cloud=(255, 255, 255),
        cloud_cover=0.5, hills=(70, 118, 92), ground_near=(58, 112, 38), ground_far=(136, 172, 84), pattern="grain",
        sun=(255, 250, 225), sun_size=0.05,
    ),
    "sunset": Palette(
        place="at sunset", zenith=(46, 42, 104), horizon=(252, 160, 94), cloud=(240, 118, 110), cloud_cover=0.6,
        hills=(84, 54, 92), ground_near=(50, 36, 52), ground_far=(150, 92, 86), pattern="grain",
        sun=(255, 214, 140), sun_size=0.09, light=(1.0, 0.9, 0.86),
    ),
    "night": Palette(
        place="under a starry sky", zenith=(6, 10, 34), horizon=(38, 56, 104), cloud=(58, 72, 116), cloud_cover=0.25,
        hills=(15, 22, 46), ground_near=(14, 24, 32), ground_far=(34, 50, 78), pattern="grain",
        sun=(236, 240, 250), sun_size=0.06, stars=1.0, light=(0.8, 0.84, 0.95),
    ),
    "desert": Palette(
        place="in the desert", zenith=(76, 146, 206), horizon=(242, 222, 184), cloud=(252, 240, 220), cloud_cover=0.2,
        hills=(188, 118, 78), ground_near=(196, 144, 84), ground_far=(230, 192, 136), pattern="ripples",
        sun=(255, 248, 220), sun_size=0.06, light=(1.0, 0.97, 0.92),
    ),
    "sea": Palette(
        place="at the sea", zenith=(34, 126, 188), horizon=(206, 236, 240), cloud=(250, 252, 255), cloud_cover=0.4,
        hills=(92, 140, 150), ground_near=(12, 74, 108), ground_far=(86, 166, 186), pattern="ripples",
        sun=(255, 252, 236), sun_size=0.05,
    ),
    "snow": Palette(
        place="in the snow", zenith=(132, 162, 202), horizon=(226, 232, 242), cloud=(244, 246, 250), cloud_cover=0.75,
        hills=(150, 166, 190), ground_near=(204, 216, 232), ground_far=(240, 244, 250), pattern="grain",
        sun=(255, 250, 240), sun_size=0.04, light=(0.96, 0.98, 1.0),
    ),
    "square": Palette(
        place="on a town square", zenith=(96, 136, 178), horizon=(232, 214, 196), cloud=(250, 238, 226),
        cloud_cover=0.5, hills=(126, 112, 122), ground_near=(150, 128, 112), ground_far=(196, 178, 162),
        pattern="tiles", sun=(255, 240, 210), sun_size=0.05, light=(1.0, 0.98, 0.95),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Background:
    """Parameters of a background: palette, direction of the sun and seed of the noise."""

    palette: str
    sun_longitude: float
    """Longitude of the sun, rad, positive to the right."""
    sun_latitude: float
    """Latitude of the sun, rad, positive up."""
    noise_seed: int


@dataclass(frozen=True)
class Noise:
    """Smooth noise in [-1, 1] in three dimensions, randomly rotated."""

    lattice: Float32[np.ndarray, "x y z"]
    turn: Float32[np.ndarray, "3 3"]
    shift: Float32[np.ndarray, "3"]

    @classmethod
    def drawn(cls, generator: np.random.Generator) -> "Noise":
        """Draws values, rotation and shift."""
        lattice = (2 * generator.random((LATTICE, LATTICE, LATTICE)) - 1).astype(np.float32)
        turn = Rotation.random(rng=generator).as_matrix().astype(np.float32)
        return cls(lattice, turn, generator.uniform(0, LATTICE, 3).astype(np.float32))

    def at(self, axes: Sequence[Float[np.ndarray, "*shape"]], frequency: float) -> Float32[np.ndarray, "*shape"]:
        """Values at the points x, y, z of `axes`, with about `frequency` features per unit length."""
        x, y, z = axes
        coordinates = np.empty((3, *x.shape), x.dtype)
        for coordinate, row, shift in zip(coordinates, self.turn * np.float32(frequency), self.shift, strict=True):
            np.add(x * row[0] + y * row[1], z * row[2], out=coordinate)
            coordinate += shift
        cell = np.floor(coordinates)
        fraction = np.subtract(coordinates, cell, out=coordinates)
        # The smooth step hides the lattice, which linear interpolation would show.
        smooth = cell + fraction * fraction * (3 - 2 * fraction)
        return map_coordinates(self.lattice, smooth, order=1, mode="grid-wrap", output=np.float32)


def fractal_noise(
    points: Float[np.ndarray, "*shape 3"], frequency: float, octaves: tuple[Noise, ...]
) -> Float32[np.ndarray, "*shape"]:
    """Sum of `octaves` of noise, each with twice the frequency and half the amplitude of the previous one."""
    axes = [np.ascontiguousarray(points[..., k]) for k in range(3)]
    total = octaves[0].at(axes, frequency)
    for octave, noise in enumerate(octaves[1:], start=1):
        total += noise.at(axes, frequency * 2**octave) * np.float32(0.5**octave)
    return total


# Mean height (rad) and features per rad of each range of hills.
_RANGES = ((0.13, 2.2), (0.085, 3.5), (0.035, 6.0))
# Octaves of the noises of each part of a background, in the order in which they are drawn.
_OCTAVES = {"sky": (5,), "ground": (3, 3), "hills": (3, 4, 4, 4)}


# Several views of a scene share its noises, whose drawing takes as long as painting a small view.
@lru_cache(maxsize=12)
def _noises(noise_seed: int, part: str) -> tuple[tuple[Noise, ...], ...]:
    """Noises of one part of the background with the seed `noise_seed`."""
    seeds = dict(zip(_OCTAVES, np.random.SeedSequence(noise_seed).spawn(len(_OCTAVES)), strict=True))
    generator = np.random.default_rng(seeds[part])
    return tuple(tuple(Noise.drawn(generator) for _ in range(octaves)) for octaves in _OCTAVES[part])


def render_background(
    background: Background, directions: Float[np.ndarray, "height width 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Renders a background at the unit vectors `directions` of a panorama (x right, y up, z forward)."""
    return paint_background(background, PanoramaGrid(directions))


def paint_background(background: Background, grid: Grid) -> UInt8[np.ndarray, "height width 3"]:
    """Renders a background on the pixels of `grid`."""
    palette, directions = PALETTES[background.palette], grid.directions
    picture = np.empty(directions.shape, np.float32)
    sky, ground, hills = grid.sky, grid.ground, grid.hills
    above, below, band = (directions[part] for part in (sky, ground, hills))
    if above.size:
        painted = _sky(background, palette, above)
        picture[sky] = painted + _stars(grid, palette.stars, background.noise_seed) if palette.stars else painted
    if below.size:
        picture[ground] = _ground(palette, below, *_noises(background.noise_seed, "ground"))
    if band.size:
        noises = _noises(background.noise_seed, "hills")
        picture[hills] = _with_hills(picture[hills], grid, palette, band, noises)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def _colour(colour: Colour) -> Float32[np.ndarray, "3"]:
    return np.array(colour, np.float32)


def _blend(first: np.ndarray, second: np.ndarray, weight: Float32[np.ndarray, "*pixel"]) -> np.ndarray:
    return first + (second - first) * weight[..., None]


def _plane(directions: Float32[np.ndarray, "*pixel 3"], softness: float) -> Float32[np.ndarray, "*pixel 3"]:
    """Intersection of each direction with a horizontal plane at distance 1; `softness` keeps the horizon finite."""
    points = directions / (np.abs(directions[..., 1:2]) + np.float32(softness))
    points[..., 1] = 0
    return points


def _sky(
    background: Background,
    palette: Palette,
    directions: Float32[np.ndarray, "*pixel 3"],
) -> Float32[np.ndarray, "*pixel 3"]:
    elevation = np.clip(directions[..., 1], 0, 1)
    sky = _blend(_colour(palette.horizon), _colour(palette.zenith), elevation ** np.float32(0.55))
    longitude, latitude = background.sun_longitude, background.sun_latitude
    sun = (np.cos(latitude) * np.sin(longitude), np.sin(latitude), np.cos(latitude) * np.cos(longitude))
    cosine = sum(directions[..., k] * np.float32(sun[k]) for k in range(3))
    angle = np.arccos(np.clip(cosine, -1, 1)).astype(np.float32)
    glow = 0.55 * np.exp(-angle / np.float32(3 * palette.sun_size)) + 0.2 * np.exp(-angle / np.float32(0.6))
    sky = _blend(sky, _colour(palette.sun), glow)
    edge = np.clip((palette.sun_size - angle) / np.float32(0.01) + 0.5, 0, 1)
    sky = _blend(sky, _colour(palette.sun), edge)
    thickness = fractal_noise(_plane(directions, 0.22), 0.9, *_noises(background.noise_seed, "sky"))
    cover = np.clip((thickness - np.float32(0.75 - 1.5 * palette.cloud_cover)) * np.float32(0.9), 0, 1)
    shade = 1 - np.float32(0.18) * np.clip(thickness - np.float32(0.3), 0, 1)
    clouds = _colour(palette.cloud) * shade[..., None]
    haze = np.clip(elevation * 6, 0.25, 1)
    return _blend(sky, clouds, cover * haze * np.float32(0.85))


def _stars(grid: Grid, brightness: float, noise_seed: int) -> Float32[np.ndarray, "*pixel 1"]:
    """Small soft discs, distributed uniformly over the upper half of the sphere."""
    *_, seed = np.random.SeedSequence(noise_seed).spawn(len(_OCTAVES) + 1)
    sines, longitudes, lights = np.random.default_rng(seed).uniform(0, 1, (260, 3)).T
    return grid.stars(sines, longitudes, 230 * brightness * lights**2 * np.minimum(1, sines * 8))


def _ground(
    palette: Palette, directions: Float32[np.ndarray, "*pixel 3"], texture: tuple[Noise, ...], fine: tuple[Noise, ...]
) -> Float32[np.ndarray, "*pixel 3"]:
    depth = np.clip(-directions[..., 1], 0, 1)
    ground = _blend(_colour(palette.ground_far), _colour(palette.ground_near), depth ** np.float32(0.6))
    plane = _plane(directions, 0.04)
    # Detail fades towards the horizon, where features are smaller than pixels.
    near = 1 - np.exp(-depth * 5)
    grain = fractal_noise(plane, 0.7, texture) * np.float32(0.5)
    if palette.pattern == "ripples":
        bend = grain * 3
        grain = grain * np.float32(0.5) + np.float32(0.4) * np.sin(plane[..., 2] * 5 + plane[..., 0] * 1.5 + bend)
    if palette.pattern == "tiles":
        joints = np.minimum(*(np.abs((plane[..., k] * 1.4) % 1 - 0.5) for k in (0, 2)))
        parity = (np.floor(plane[..., 0] * 1.4 + 0.5) + np.floor(plane[..., 2] * 1.4 + 0.5)) % 2
        grain = grain * np.float32(0.5) + (parity - 0.5) * np.float32(0.6)
        grain -= np.clip(1 - joints / 0.04, 0, 1) * np.float32(0.5)
    detail = fractal_noise(plane, 6.0, fine)
    relief = grain * near + detail * near**2 * np.float32(0.4)
    return ground * (1 + np.float32(0.24) * relief)[..., None]


def _with_hills(
    picture: Float32[np.ndarray, "*pixel 3"],
    grid: Grid,
    palette: Palette,
    directions: Float32[np.ndarray, "*pixel 3"],
    noises: tuple[tuple[Noise, ...], ...],
) -> Float32[np.ndarray, "*pixel 3"]:
    """The pixels `grid.hills` of a picture, at `directions`, with three ranges of hills, paler with distance."""
    latitude = np.arcsin(np.clip(directions[..., 1], -1, 1))
    pixel = np.float32(grid.pixel)
    (mottle, *ranges), ring = noises, grid.ring
    mottling = fractal_noise(directions, 14.0, mottle)
    for distance, ((lift, frequency), noise) in enumerate(zip(_RANGES, ranges, strict=True)):
        crest = np.float32(lift) * (1 + np.float32(0.75) * fractal_noise(ring, frequency, noise)) - 0.01
        paleness = np.float32(0.55 - 0.25 * distance)
        colour = _colour(palette.hills) * (1 - paleness) + _colour(palette.horizon) * paleness
        shaded = colour * (1 + np.float32(0.07 + 0.05 * distance) * mottling)[..., None]
        above = grid.over_hills(crest) - latitude
        inside = np.clip(above / pixel + 0.5, 0, 1) * np.clip((latitude + 0.02) / 0.02, 0, 1)
        picture = _blend(picture, shaded, inside.astype(np.float32))
    return picture
