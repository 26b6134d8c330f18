"""Drawings of the object classes, by signed distance functions in the plane that touches the sphere at the object.

Coordinates are gnomonic: p to the right and q up, 1 at the object's angular radius, so that a drawing is distorted on
the panorama like a real object. A shape is its signed distance s(p, q), negative inside; it covers
clip(1/2 - s / pixel, 0, 1) of a pixel, which gives soft edges at any size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

Plane = Float32[np.ndarray, "height width"]
RGB = tuple[int, int, int]
INK: RGB = (28, 24, 32)
OUTLINE = 0.045
"""Width of the dark outline of every shape, in radii of the object."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """State of an object at one instant."""

    time: float
    """Time since the start of the clip, s."""
    since: float
    """Time since the latest onset, s; infinite before the first."""
    loudness: float
    """Envelope of the object's sound, 0..1."""
    hue: float

    @property
    def pulse(self) -> float:
        """Strength of flashes, bounces and swings: 1 at an onset, then decaying."""
        return float(np.exp(-self.since / 0.22))

    def pick(self, *colours: RGB) -> RGB:
        """Colour of this object among those of its class."""
        return colours[int(self.hue * len(colours)) % len(colours)]


class Canvas:
    """Image on a grid of p and q: premultiplied RGB (0..255) and coverage (0..1), channels first for speed."""

    def __init__(self, p: Plane, q: Plane, pixel: float):
        self.p, self.q, self.pixel = p, q, np.float32(pixel)
        self.layers = np.zeros((4, *p.shape), np.float32)

    def paint(self, distance: Plane, colour: RGB, opacity: float = 1.0, shade: Plane | float = 1.0) -> None:
        """Paints the inside of a shape; `shade` multiplies the colour."""
        share = np.clip(np.float32(0.5) - distance / self.pixel, 0, 1)
        if opacity < 1:
            share *= np.float32(opacity)
        kept = 1 - share
        if isinstance(shade, float):
            tones = [share * np.float32(min(channel * shade, 255)) for channel in colour]
        else:
            tones = [share * np.minimum(shade * np.float32(channel), 255) for channel in colour]
        for layer, tone in zip(self.layers, (*tones, share), strict=True):
            layer *= kept
            layer += tone

    def solid(self, distance: Plane, colour: RGB, shade: Plane | float | None = None) -> None:
        """Paints a shape with a dark outline, lit from above left unless `shade` is given."""
        self.paint(distance - np.float32(OUTLINE), INK)
        self.paint(distance, colour, shade=self.light() if shade is None else shade)

    def light(self) -> Plane:
        """Brightness of a matt surface lit from above left."""
        return 0.92 + np.float32(0.22) * self.q - np.float32(0.14) * self.p


def circle(p: Plane, q: Plane, x: float, y: float, radius: float) -> Plane:
    """Distance to a circle around (x, y)."""
    return np.hypot(p - np.float32(x), q - np.float32(y)) - np.float32(radius)


def ellipse(p: Plane, q: Plane, x: float, y: float, a: float, b: float) -> Plane:
    """Distance to an ellipse with the half axes a, b, to first order (exact on its edge)."""
    u, v = p - np.float32(x), q - np.float32(y)
    k = np.hypot(u / np.float32(a), v / np.float32(b)) + np.float32(1e-6)
    slope = np.hypot(u / np.float32(a * a), v / np.float32(b * b)) + np.float32(1e-6)
    return k * (k - 1) / slope


def box(p: Plane, q: Plane, x: float, y: float, a: float, b: float, rounding: float = 0.0) -> Plane:
    """Distance to a rectangle with half sides a, b and rounded corners."""
    u = np.abs(p - np.float32(x)) - np.float32(a - rounding)
    v = np.abs(q - np.float32(y)) - np.float32(b - rounding)
    outside = np.hypot(np.maximum(u, 0), np.maximum(v, 0))
    return outside + np.minimum(np.maximum(u, v), 0) - np.float32(rounding)


def capsule(p: Plane, q: Plane, start: tuple[float, float], end: tuple[float, float], radius: float) -> Plane:
    """Distance to a thick line with round ends."""
    (x, y), along_x, along_y = start, end[0] - start[0], end[1] - start[1]
    u, v = p - np.float32(x), q - np.float32(y)
    share = np.clip((u * np.float32(along_x) + v * np.float32(along_y)) / np.float32(along_x**2 + along_y**2), 0, 1)
    return np.hypot(u - share * np.float32(along_x), v - share * np.float32(along_y)) - np.float32(radius)


def convex(p: Plane, q: Plane, *corners: tuple[float, float]) -> Plane:
    """Distance to the inside of a convex polygon given anticlockwise (largest distance to an edge's line)."""
    sides = []
    for (x, y), (next_x, next_y) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = np.hypot(next_x - x, next_y - y)
        normal_x, normal_y = np.float32((next_y - y) / length), np.float32((x - next_x) / length)
        sides.append((p - np.float32(x)) * normal_x + (q - np.float32(y)) * normal_y)
    return np.maximum.reduce(sides)


def turned(p: Plane, q: Plane, angle: float, x: float, y: float) -> tuple[Plane, Plane]:
    """Coordinates that rotate a shape anticlockwise by `angle` (rad) around (x, y)."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = p - np.float32(x), q - np.float32(y)
    return c * u + s * v + np.float32(x), c * v - s * u + np.float32(y)


def _waves(canvas: Canvas, moment: Moment, x: float, y: float, colour: RGB) -> None:
    """Paints rings that move outwards from (x, y) at each onset."""
    for lag in (0.0, 0.12):
        age = moment.since - lag
        if 0 <= age < 0.5:
            radius = 0.35 + 1.5 * age
            ring = np.abs(circle(canvas.p, canvas.q, x, y, radius)) - np.float32(0.03)
            canvas.paint(ring, colour, opacity=0.8 * (1 - age / 0.5))


def bell(canvas: Canvas, moment: Moment) -> None:
    """Paints a metal bell that swings from its loop."""
    swing = 0.4 * np.cos(2 * np.pi * 1.4 * moment.since) * np.exp(-moment.since / 0.9) if moment.pulse > 1e-4 else 0.0
    metal = moment.pick((236, 182, 52), (206, 128, 66), (188, 196, 208))
    p, q = turned(canvas.p, canvas.q, swing, 0, 0.8)
    canvas.paint(np.abs(circle(p, q, 0, 0.78, 0.13)) - np.float32(0.085), INK)
    canvas.paint(np.abs(circle(p, q, 0, 0.78, 0.13)) - np.float32(0.045), metal)
    tongue_p, tongue_q = turned(p, q, -1.2 * swing, 0, 0.4)
    canvas.solid(circle(tongue_p, tongue_q, 0, -0.72, 0.16), (112, 84, 60))
    flare = np.float32(0.33) + np.float32(0.34) * np.clip((0.3 - q) / np.float32(0.9), 0, 1) ** np.float32(2.2)
    dome = np.sqrt(np.clip(1 - (np.clip(q - np.float32(0.25), 0, 1) / np.float32(0.42)) ** 2, 0, 1))
    body = np.maximum((np.abs(p) - flare * dome) * np.float32(0.85), np.maximum(q - np.float32(0.67), -0.58 - q))
    gleam = (
        0.78 + 0.75 * np.exp(-(((p + np.float32(0.18)) / np.float32(0.13)) ** 2)) - np.float32(0.25) * np.maximum(p, 0)
    )
    canvas.solid(body, metal, gleam)
    canvas.solid(capsule(p, q, (-0.66, -0.56), (0.66, -0.56), 0.09), metal, gleam)
    canvas.paint(box(p, q, 0, -0.3, 0.44, 0.025), INK, opacity=0.35)


def drum(canvas: Canvas, moment: Moment) -> None:
    """Paints a drum that two sticks compress at each onset."""
    paint = moment.pick((200, 40, 44), (36, 92, 176), (40, 132, 84))
    squeeze = 1 - 0.22 * moment.pulse
    p, q = canvas.p * np.float32(squeeze**0.5), (canvas.q + np.float32(0.6)) / np.float32(squeeze) - np.float32(0.6)
    shell = np.minimum(box(p, q, 0, -0.15, 0.72, 0.45), ellipse(p, q, 0, -0.6, 0.72, 0.22))
    canvas.solid(shell, paint, 1.05 - np.float32(0.45) * np.abs(p + np.float32(0.25)))
    for k in range(-3, 3):
        low, high = (k * 0.24, -0.62), (k * 0.24 + 0.12, 0.12)
        inner = np.maximum(capsule(p, q, low, high, 0.022), shell)
        canvas.paint(inner, (250, 240, 215))
        canvas.paint(np.maximum(capsule(p, q, (k * 0.24 + 0.24, -0.62), high, 0.022), shell), (250, 240, 215))
    canvas.solid(ellipse(p, q, 0, 0.28, 0.76, 0.25), (222, 178, 84))
    head = int(215 + 40 * moment.pulse)
    canvas.paint(ellipse(p, q, 0, 0.29, 0.68, 0.2), (head, head - 8, head - 34))
    lift = 0.5 * (1 - moment.pulse)
    for side in (-1.0, 1.0):
        tip = (side * 0.22, 0.36 + lift)
        stick = capsule(canvas.p, canvas.q, tip, (side * 0.85, 0.72 + 0.4 * lift), 0.05)
        canvas.solid(np.minimum(stick, circle(canvas.p, canvas.q, *tip, 0.09)), (226, 186, 130))


def whistle(canvas: Canvas, moment: Moment) -> None:
    """Paints a referee's whistle with a moving pea and rings at each onset."""
    shell = moment.pick((40, 178, 190), (240, 90, 40), (150, 84, 190))
    _waves(canvas, moment, 0.0, 0.35, (255, 255, 255))
    p, q = turned(canvas.p, canvas.q, 0.25 + 0.12 * moment.pulse, 0, 0)
    canvas.paint(np.abs(circle(p, q, -0.78, 0.05, 0.13)) - np.float32(0.07), INK)
    body = np.minimum(circle(p, q, -0.18, -0.1, 0.54), box(p, q, 0.42, 0.24, 0.5, 0.2, 0.04))
    canvas.solid(body, shell)
    canvas.paint(box(p, q, 0.12, 0.42, 0.13, 0.12), INK)
    canvas.paint(circle(p, q, -0.18, -0.1, 0.34), INK, opacity=0.75)
    angle = 40 * moment.time * (moment.loudness > 0.2) + 4.2
    canvas.paint(circle(p, q, -0.18 + 0.18 * np.cos(angle), -0.1 + 0.18 * np.sin(angle), 0.13), (250, 226, 150))
    canvas.paint(capsule(p, q, (-0.5, 0.22), (-0.3, 0.32), 0.035), (255, 255, 255), opacity=0.7)
    canvas.paint(capsule(p, q, (0.4, 0.36), (0.82, 0.36), 0.03), (255, 255, 255), opacity=0.55)


def engine(canvas: Canvas, moment: Moment) -> None:
    """Paints a motor with a rotating gear, a glowing core and smoke, which shakes and brightens with loudness."""
    case = moment.pick((70, 92, 122), (122, 96, 62), (88, 116, 84))
    shake = 0.035 * moment.loudness * np.sin(2 * np.pi * 5.3 * moment.time)
    p, q = canvas.p + np.float32(shake), canvas.q - np.float32(0.5 * shake)
    for puff in range(4):
        age = (moment.time * 1.3 + puff / 4) % 1
        cloud = circle(canvas.p, canvas.q, 0.72 + 0.1 * age, 0.6 + 0.55 * age, 0.1 + 0.12 * age)
        canvas.paint(cloud, (170, 170, 176), opacity=0.75 * moment.loudness * (1 - age))
    canvas.solid(capsule(p, q, (0.62, -0.1), (0.72, 0.5), 0.1), (120, 122, 130))
    canvas.solid(box(p, q, 0, -0.32, 0.82, 0.46, 0.1), case)
    for rib in range(-3, 4):
        canvas.paint(box(p, q, rib * 0.22, -0.58, 0.035, 0.14, 0.03), INK, opacity=0.6)
    for foot in (-0.5, 0.5):
        canvas.solid(box(p, q, foot, -0.82, 0.18, 0.08, 0.03), (60, 62, 70))
    turn = 2.2 * moment.time
    radius, angle = np.hypot(p, q - np.float32(0.05)), np.arctan2(q - np.float32(0.05), p) + np.float32(turn)
    teeth = np.float32(0.55) + np.float32(0.07) * np.clip(3 * np.cos(10 * angle), -1, 1)
    canvas.solid(radius - teeth, (178, 184, 194))
    canvas.solid(radius - np.float32(0.3), (190, 50 + int(90 * moment.loudness), 30), 0.5 + 0.9 * moment.loudness)
    for spoke in range(3):
        x, y = np.cos(2 * np.pi * spoke / 3 - turn), np.sin(2 * np.pi * spoke / 3 - turn)
        canvas.paint(circle(p, q, 0.42 * x, 0.05 + 0.42 * y, 0.06), INK, opacity=0.8)


def chirp(canvas: Canvas, moment: Moment) -> None:
    """Paints a bird that hops, flaps and opens its beak."""
    coat, belly = moment.pick((246, 196, 44), (66, 142, 220), (226, 84, 84)), (255, 240, 205)
    p, q = canvas.p, canvas.q - np.float32(0.14 * moment.pulse)
    canvas.solid(convex(p, q, (-0.98, 0.12), (-0.92, -0.22), (-0.35, -0.25), (-0.4, 0.05)), coat, 0.75)
    for x in (-0.1, 0.14):
        canvas.paint(capsule(p, q, (x, -0.5), (x + 0.03, -0.85), 0.045), (190, 110, 40))
    gape = 0.2 * moment.loudness
    beak = (240, 130, 30)
    canvas.solid(convex(p, q, (0.6, 0.36), (0.98, 0.32 + gape), (0.6, 0.5)), beak)
    canvas.solid(convex(p, q, (0.6, 0.36), (0.58, 0.22), (0.94, 0.3 - gape)), beak, 0.8)
    body = np.minimum(ellipse(p, q, -0.08, -0.16, 0.62, 0.44), circle(p, q, 0.36, 0.34, 0.34))
    canvas.solid(body, coat)
    canvas.paint(np.maximum(ellipse(p, q, 0.12, -0.3, 0.42, 0.3), body), belly)
    lift = 0.3 * np.sin(2 * np.pi * 3 * moment.time) * (0.4 + 0.6 * moment.loudness)
    wing_p, wing_q = turned(p, q, -0.25 - lift, 0.15, -0.05)
    canvas.solid(ellipse(wing_p, wing_q, -0.25, -0.05, 0.42, 0.2), coat, 0.7)
    canvas.paint(circle(p, q, 0.45, 0.42, 0.11), (255, 255, 255))
    canvas.paint(circle(p, q, 0.48, 0.42, 0.065), INK)


def voice(canvas: Canvas, moment: Moment) -> None:
    """Paints a face whose mouth opens with loudness."""
    skin = moment.pick((246, 206, 172), (186, 128, 88), (118, 76, 54))
    hair = moment.pick((92, 52, 28), (30, 24, 28), (44, 30, 26))
    p, q = turned(canvas.p, canvas.q, 0.08 * np.sin(2 * np.pi * 0.7 * moment.time), 0, -0.6)
    canvas.solid(ellipse(p, q, 0, 0.14, 0.74, 0.8), hair)
    for side in (-1.0, 1.0):
        canvas.solid(circle(p, q, side * 0.62, -0.08, 0.13), skin)
    face = ellipse(p, q, 0, -0.12, 0.6, 0.76)
    canvas.solid(face, skin)
    canvas.paint(np.maximum(ellipse(p, q, 0.15, 0.72, 0.85, 0.42), face), hair)
    raised = 0.06 * moment.loudness
    for side in (-1.0, 1.0):
        canvas.paint(ellipse(p, q, side * 0.24, 0.02, 0.12, 0.1), (255, 255, 255))
        canvas.paint(circle(p, q, side * 0.24, 0.01, 0.065), INK)
        brow = capsule(p, q, (side * 0.36, 0.21 + raised), (side * 0.14, 0.2 + raised), 0.03)
        canvas.paint(brow, hair)
        canvas.paint(circle(p, q, side * 0.36, -0.24, 0.12), (238, 110, 100), opacity=0.35)
    canvas.paint(capsule(p, q, (0.0, -0.08), (0.04, -0.2), 0.03), INK, opacity=0.35)
    mouth = ellipse(p, q, 0, -0.5, 0.24 - 0.06 * moment.loudness, 0.04 + 0.2 * moment.loudness)
    canvas.paint(mouth - np.float32(0.03), (176, 52, 60))
    canvas.paint(mouth, (74, 14, 26))


DRAWINGS: dict[str, Callable[[Canvas, Moment], None]] = {
    "bell": bell, "drum": drum, "whistle": whistle, "engine": engine, "chirp": chirp, "voice": voice,
}  # fmt: skip
GLOWS: dict[str, RGB] = {
    "bell": (255, 220, 110), "drum": (255, 170, 120), "whistle": (190, 250, 255), "engine": (255, 150, 60),
    "chirp": (255, 245, 150), "voice": (255, 190, 210),
}  # fmt: skip
"""Colour of the flash at an onset."""
COLOURS: dict[str, tuple[str, ...]] = {
    "bell": ("golden", "copper", "silver"), "drum": ("red", "blue", "green"),
    "whistle": ("turquoise", "orange", "purple"), "engine": ("blue", "brown", "green"),
    "chirp": ("yellow", "blue", "red"), "voice": ("pale", "tan", "brown"),
}  # fmt: skip
"""Names of the colours of each class, in the order in which its drawing picks them."""
