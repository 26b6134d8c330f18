"""Audio of the procedural scenes: one synthesised timbre per class, with the amplitude of `loudness_envelope`.

The envelope e(t) in [0, 1] of an object is the maximum over its notes of
    (1)  a(t - onset) * h(t - onset),   a(x) = min(x / attack, 1) for x >= 0, else 0,
    (2)  h(x) = exp(-x / decay) for struck objects, else 1 during the note and exp(-(x - length) / decay) after it;
for an engine, which never stops, (3)  e = 0.3 + 0.7 * max(...). The video is driven by the same e(t).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int16
from scipy.signal import fftconvolve, lfilter

from con360av_jax.scenes.scene import Scene, SceneObject
from con360av_jax.sphere.ambisonics import encode

ATTACK = {"bell": 0.002, "drum": 0.002, "whistle": 0.008, "engine": 0.01, "chirp": 0.006, "voice": 0.012}
"""Rise time, s."""
DECAY = {"bell": 0.45, "drum": 0.13, "whistle": 0.05, "engine": 0.35, "chirp": 0.02, "voice": 0.06}
"""Time constant of the decay, s."""
STRUCK = ("bell", "drum")
RINGING = 2.2
"""Time after which a struck object is silent, s; it fades over the last 0.6 s."""
ENGINE_IDLE = 0.3
LEVEL = 0.24
"""Peak of each object at the reference distance, relative to full scale."""
AMBIENCE = 0.0015
"""RMS of the wind in W, relative to full scale."""

Times = Float[np.ndarray, "sample"]


def _filtered(numerator: list[float], denominator: list[float], signal: np.ndarray) -> np.ndarray:
    """Applies a recursive filter along time, the first axis."""
    return np.asarray(lfilter(numerator, denominator, signal, axis=0))


def loudness_envelope(item: SceneObject, times: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Envelope e(t) of an object at `times` (s), equations 1 to 3, without the gain of distance."""
    attack, decay, struck = ATTACK[item.name], DECAY[item.name], item.name in STRUCK
    times = np.asarray(times, np.float64)
    envelope = np.zeros(times.shape)
    for note in item.notes:
        reach = note.seconds + 8 * decay
        near = (times >= note.onset) & (times < note.onset + reach)
        since = times[near] - note.onset
        held = np.exp(-since / decay) if struck else np.exp(-np.maximum(since - note.seconds, 0) / decay)
        envelope[near] = np.maximum(envelope[near], np.minimum(since / attack, 1) * held)
    return ENGINE_IDLE + (1 - ENGINE_IDLE) * envelope if item.name == "engine" else envelope


def _per_note(item: SceneObject, times: Times, tone: Callable[[Times, float, float], np.ndarray]) -> np.ndarray:
    """Sum over notes of `tone(time since onset, frequency factor, length)` times equations 1 and 2."""
    attack, decay, struck = ATTACK[item.name], DECAY[item.name], item.name in STRUCK
    wave = np.zeros(times.shape)
    for note in item.notes:
        # The partials of a struck object have their own decay, slower than the envelope's.
        last = np.searchsorted(times, note.onset + (RINGING if struck else note.seconds + 8 * decay))
        first = np.searchsorted(times, note.onset)
        since = times[first:last] - note.onset
        shape = np.minimum(since / attack, 1)
        held = (
            np.minimum((RINGING - since) / 0.6, 1) if struck else np.exp(-np.maximum(since - note.seconds, 0) / decay)
        )
        wave[first:last] += shape * held * tone(since, item.pitch * note.pitch, note.seconds)
    return wave


def _bell(item: SceneObject, times: Times, generator: np.random.Generator) -> np.ndarray:
    partials = ((0.5, 0.5), (1.0, 1.0), (1.19, 0.7), (1.5, 0.4), (2.0, 0.8), (2.74, 0.45), (3.0, 0.3), (4.1, 0.25))
    phases = generator.uniform(0, 2 * np.pi, len(partials))

    def tone(since: Times, pitch: float, _: float) -> np.ndarray:
        wave = np.zeros(since.shape)
        for (ratio, weight), phase in zip(partials, phases, strict=True):
            decay = 1.6 * DECAY["bell"] / ratio**0.7
            wave += weight * np.exp(-since / decay) * np.sin(2 * np.pi * 560 * pitch * ratio * since + phase)
        return wave

    return _per_note(item, times, tone)


def _drum(item: SceneObject, times: Times, generator: np.random.Generator) -> np.ndarray:
    noise = generator.standard_normal(times.size)

    def tone(since: Times, pitch: float, _: float) -> np.ndarray:
        phase = 2 * np.pi * pitch * (75 * since + 110 * 0.05 * (1 - np.exp(-since / 0.05)))
        skin = np.cos(phase) * np.exp(-since / DECAY["drum"])
        return skin + 0.5 * noise[: since.size] * np.exp(-since / 0.018)

    return _per_note(item, times, tone)


def _whistle(item: SceneObject, times: Times, generator: np.random.Generator) -> np.ndarray:
    breath = _filtered([1, 0, -1], [1, 0, 0.6], generator.standard_normal(times.size))

    def tone(since: Times, pitch: float, _: float) -> np.ndarray:
        trill = np.sin(2 * np.pi * 27 * since)
        phase = 2 * np.pi * 2150 * pitch * since + 1.6 * trill
        return (np.sin(phase) + 0.12 * np.sin(2 * phase)) * (0.8 + 0.2 * trill) + 0.05 * breath[: since.size]

    return _per_note(item, times, tone)


def _engine(item: SceneObject, times: Times, generator: np.random.Generator) -> np.ndarray:
    envelope = loudness_envelope(item, times)
    step = times[1] - times[0]
    # Like a flywheel, the pitch follows loudness slowly.
    speed = _filtered([step / 0.15], [1, step / 0.15 - 1], envelope)
    phase = 2 * np.pi * np.cumsum(38 * item.pitch * (0.8 + 0.9 * speed)) * step
    weights = generator.uniform(0.5, 1.0, 14) / np.arange(1, 15) ** 0.7
    wave = sum(weight * np.sin((k + 1) * phase + k * k) for k, weight in enumerate(weights))
    rattle = _filtered([0.25], [1, -0.75], generator.standard_normal(times.size)) * (1 + np.sin(phase)) * 0.8
    return (wave + rattle) * envelope


def _chirp(item: SceneObject, times: Times, generator: np.random.Generator) -> np.ndarray:
    sweep = generator.uniform(0.35, 0.6)

    def tone(since: Times, pitch: float, length: float) -> np.ndarray:
        share = since / length
        phase = 2 * np.pi * 3100 * min(pitch, 1.25) * (since + sweep * length * (share**2 / 2 - share**3 / 6))
        return np.sin(phase) * (0.6 + 0.4 * np.sin(np.pi * np.clip(share, 0, 1)))

    return _per_note(item, times, tone)


VOWELS = ((730, 1090, 2440), (530, 1840, 2480), (570, 840, 2410), (300, 870, 2240), (390, 1990, 2550))


def _voice(item: SceneObject, times: Times, generator: np.random.Generator) -> np.ndarray:
    breath = generator.standard_normal(times.size)

    def tone(since: Times, pitch: float, _: float) -> np.ndarray:
        formants = np.array(VOWELS[int(generator.integers(len(VOWELS)))], float)
        base = 165 * pitch
        phase = 2 * np.pi * base * since + 0.35 * np.sin(2 * np.pi * 5.5 * since)
        wave = np.zeros(since.shape)
        for harmonic in range(1, int(3600 / base)):
            distance = (harmonic * base - formants) / np.array([90.0, 120.0, 170.0])
            weight = np.sum(np.array([1.0, 0.55, 0.3]) / (1 + distance**2)) / harmonic**0.4
            wave += weight * np.sin(harmonic * phase)
        return wave + 0.02 * breath[: since.size]

    return _per_note(item, times, tone)


TIMBRES: dict[str, Callable[[SceneObject, Times, np.random.Generator], np.ndarray]] = {
    "bell": _bell, "drum": _drum, "whistle": _whistle, "engine": _engine, "chirp": _chirp, "voice": _voice,
}  # fmt: skip


def object_sound(item: SceneObject, seconds: float, sample_rate: int) -> Float[np.ndarray, "sample"]:
    """Sound of one object at the viewer, relative to full scale: its timbre with the gain of its distance."""
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    wave = TIMBRES[item.name](item, times, np.random.default_rng(item.noise_seed))
    return LEVEL * wave / np.abs(wave).max() * item.gain(times, seconds)


def scene_sound(
    scene: Scene, sources: list[Float[np.ndarray, "sample"]], sample_rate: int
) -> Int16[np.ndarray, "sample 4"]:
    """Ambisonic audio of `sources` (one `object_sound` per object), faint wind and the scene's echo.

    ACN W, Y, Z, X, SN3D, 16 bit; scaled down as a whole only if it would clip. The azimuth of an object is its negated
    longitude, because azimuth is positive to the left.
    """
    generator = np.random.default_rng(scene.noise_seed)
    count = round(scene.seconds * sample_rate)
    times = np.arange(count) / sample_rate
    wind = _filtered([0.05], [1, -0.95], generator.standard_normal((count, 4)))
    # In a diffuse field each of the other SN3D channels has a third of the power of W.
    field = wind * (AMBIENCE / wind.std()) * np.array([1, 3**-0.5, 3**-0.5, 3**-0.5])
    for item, source in zip(scene.objects, sources, strict=True):
        longitude, latitude = item.motion.angles(times)
        field += encode(source, -longitude, latitude)
    if scene.reverberation and sources:
        tail = np.arange(round(0.35 * sample_rate)) / sample_rate
        echo = generator.standard_normal((tail.size, 4)) * np.exp(-tail / 0.08)[:, None] * (tail > 0.012)[:, None]
        echo *= np.array([1, 3**-0.5, 3**-0.5, 3**-0.5]) / np.linalg.norm(echo[:, 0])
        dry = np.sum(sources, axis=0)
        field += scene.reverberation * fftconvolve(dry[:, None], echo, axes=0)[:count]
    field *= min(1.0, 0.97 / np.abs(field).max())
    return np.round(field * 32767).astype(np.int16)
