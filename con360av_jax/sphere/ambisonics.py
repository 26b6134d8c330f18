"""First-order ambisonics (ACN order, SN3D scale) in NumPy: encoding, rotation, down-mix and direction of arrival.

A sound field is (sample, 4) with the channels W, Y, Z, X. Azimuth is positive to the left and elevation positive up,
radians; in the world frame of geometry.py (x right, y up, z forward) a source at yaw has the azimuth -yaw.
(1) encode     W = s,  Y = s sin az cos el,  Z = s sin el,  X = s cos az cos el
(2) velocity   v = (-Y, Z, X) in world axes (right, up, forward) = s d for a plane wave s from the direction d
(3) rotate     W' = W,  v' = R^T v,  R = R_yaw R_pitch R_roll the listener's head-to-world rotation
(4) mono       W
(5) stereo     left = (W + Y') / 2,  right = (W - Y') / 2: cardioids at azimuth +90 and -90 degrees of the view
(6) intensity  I = Re(conj(W) v) in a bin of time and frequency; it points to where the sound comes from
(7) one source c = 2 |I| / mean(|W|^2 + |v|^2): 1 for one plane wave, towards 0 for sound from everywhere
(8) direction  d = normalise(sum_b g_b K(d_b.d) d_b),  g = |I| c^4,  K(x) = exp((x - 1) / sigma^2),  over bins b of
               time and frequency, d_b along I_b: where most sound of single sources comes from

Source: AmbiX (Nachbar et al. 2011) for order and scale; Pulkki (2007), directional audio coding, for (6) and (7).
"""

import numpy as np
from einops import einsum, rearrange
from jaxtyping import Float, Num
from scipy.ndimage import uniform_filter1d
from scipy.signal import stft

from con360av_jax.errors import MediaError
from con360av_jax.sphere.geometry import Angle, angles_from_direction, direction_from_angles, rotation

# Equation 8: sigma, rad, which separates sources farther apart than that; and iterations.
_BREADTH = 0.35
_STEPS = 10
# Frequency bins over which intensity is averaged: a single bin always looks like one source.
_NEIGHBOURS = 3
# Bins that are used, and how many of them serve as starting points.
_HEAVIEST = 20_000
_STARTS = 300


def encode(
    mono: Num[np.ndarray, "sample"],
    azimuth: Angle | Float[np.ndarray, "#sample"],
    elevation: Angle | Float[np.ndarray, "#sample"],
) -> Float[np.ndarray, "sample 4"]:
    """Sound field of a plane wave from a direction that may move from sample to sample (equation 1).

    float32, or float64 if `mono` is.
    """
    right, up, forward = np.moveaxis(direction_from_angles(-np.asarray(azimuth, np.float64), elevation), -1, 0)
    wave = np.asarray(mono, _float_type(mono))
    return np.stack([wave, -right * wave, up * wave, forward * wave], axis=-1).astype(wave.dtype)


def rotate(
    sound: Num[np.ndarray, "sample 4"], yaw: Angle, pitch: Angle = 0.0, roll: Angle = 0.0
) -> Float[np.ndarray, "sample 4"]:
    """The sound field heard by a listener who looks along yaw and pitch with the head rolled, rad (equation 3).

    float32, or float64 if `sound` is. Raises MediaError unless there are four channels.
    """
    _require_field(sound)
    axes = np.array([[-1.0, 0, 0], [0, 1, 0], [0, 0, 1]])  # (Y, Z, X) to (right, up, forward) and back
    turn = axes @ rotation(yaw, pitch, roll).T @ axes
    velocity = einsum(turn, sound[:, 1:], "heard given, sample given -> sample heard")
    return np.concatenate([sound[:, :1], velocity], axis=1).astype(_float_type(sound))


def mono(sound: Num[np.ndarray, "sample 4"]) -> Num[np.ndarray, "sample"]:
    """The omnidirectional channel W, never a mix of all four (equation 4). Raises MediaError unless there are four."""
    _require_field(sound)
    return sound[:, 0]


def stereo(
    sound: Num[np.ndarray, "sample 4"], yaw: Angle = 0.0, pitch: Angle = 0.0, roll: Angle = 0.0
) -> Float[np.ndarray, "sample 2"]:
    """Left and right as heard from a view (equation 5); their sum is W.

    float32, or float64 if `sound` is. Raises MediaError unless there are four channels.
    """
    w, y = rotate(sound, yaw, pitch, roll)[:, :2].T
    return np.stack([w + y, w - y], axis=1) / w.dtype.type(2)


def sound_direction(sound: Num[np.ndarray, "sample 4"], window: int = 1024) -> tuple[float, float]:
    """Azimuth and elevation, rad, from which most sound arrives (equations 7 and 8); (0, 0) for silence.

    Simultaneous sources of different pitch are separated by the spectrum, and bins with a single source weigh most.
    For a moving source the result is its direction where it is loudest.

    Args:
        sound: channels W, Y, Z, X.
        window: samples of one spectrum, about 60 ms.

    Raises MediaError unless there are four channels, a sample and a window of at least 2.
    """
    _require_field(sound)
    if window < 2 or len(sound) < 2:
        raise MediaError(f"{len(sound)} samples in windows of {window}: give at least 2 of each")
    side = min(window, len(sound))
    spectra = stft(np.asarray(sound, np.float64).T, nperseg=side, noverlap=side // 2)[2]
    pressure, velocity = spectra[0], np.stack([-spectra[1], spectra[2], spectra[3]])
    intensity = uniform_filter1d((np.conj(pressure) * velocity).real, _NEIGHBOURS, axis=1)
    energy = uniform_filter1d((np.abs(pressure) ** 2 + (np.abs(velocity) ** 2).sum(axis=0)) / 2, _NEIGHBOURS, axis=0)
    length = np.linalg.norm(intensity, axis=0)
    if not length.any():
        return 0.0, 0.0
    # Rounding aside, energy is never less than length.
    single = length / (np.maximum(energy, length) + np.finfo(float).tiny)
    share = (length * single**4).ravel()
    heaviest = np.argsort(-share, kind="stable")[:_HEAVIEST]
    heaviest = heaviest[share[heaviest] > 0]
    share, rays = share[heaviest], rearrange(intensity, "world frequency time -> (frequency time) world")[heaviest]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    # The fixed point of (8) that is reached from the densest of the heaviest bins.
    starts = rays[:_STARTS]
    direction = starts[(np.exp((starts @ rays.T - 1) / _BREADTH**2) @ share).argmax()]
    for _ in range(_STEPS):
        direction = (share * np.exp((rays @ direction - 1) / _BREADTH**2)) @ rays
        direction /= np.linalg.norm(direction)
    yaw, elevation = angles_from_direction(direction)
    return float(-yaw), float(elevation)


def _float_type(sound: Num[np.ndarray, "..."]) -> type[np.float32] | type[np.float64]:
    return np.float64 if sound.dtype == np.float64 else np.float32


def _require_field(sound: Num[np.ndarray, "..."]) -> None:
    if sound.ndim != 2 or sound.shape[1] != 4:
        raise MediaError(
            f"sound of shape {sound.shape}: give first-order ambisonics, (samples, 4) in the order W, Y, Z, X"
        )
