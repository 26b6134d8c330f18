"""Saliency of panoramas without trained weights: spectral residual and motion on views of the sphere.

(1) F = fft2(taper * (I - mean)),  L = log|F|,  P = arg F         spectrum of one view, per CIELAB channel
(2) R = L - box_3(L)                                              spectral residual
(3) C = sum_channels |ifft2(exp(R + iP))|^2 * s / (s + s_0)       s: local contrast, so that flat areas stay quiet
(4) M_t = sqrt((I_t - I_{t-1})^2 + (I_{t+1} - I_t)^2) minus its median over the sphere: motion relative to the camera
(5) S = H * blur(C / (C + q(C)) + M / (M + max(q(M), m_0))),  q: a high quantile over the segment
(6) H = h_0 + (1 - h_0) exp(-latitude^2 / (2 h_1^2))             people look around the horizon

Sources: (1), (2) Hou & Zhang, "Saliency detection: a spectral residual approach", CVPR 2007; (6) Sitzmann et al.,
"Saliency in VR: how do people explore virtual environments?", TVCG 2018, whose viewers keep near the equator.
"""

from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy import fft
from scipy.ndimage import gaussian_filter1d

from con360av_jax.sphere.cube import CUBE_EDGE, VIEW_SIZE, blur, to_panorama, to_views
from con360av_jax.sphere.geometry import minmax, solid_angle_weights

# Height to which panoramas are reduced first: 1.4° per pixel, just finer than the views.
WORKING_HEIGHT = 128
# Standard deviation of the window of local contrast, view pixels.
LOCAL_SIGMA = 3.0
# s_0 and m_0 as shares of CIELAB's lightness range; motion below m_0 is mostly codec noise.
QUIET_CONTRAST = 0.03
QUIET_MOTION = 0.04
# Added to |F| before the logarithm.
SMALLEST_AMPLITUDE = 1e-6
HIGH_QUANTILE = 0.98
# h_0 and h_1; a narrower h_1 shifts regions at a latitude of 30° by degrees towards the horizon.
POLE_INTEREST = 0.1
HORIZON_SIGMA = float(np.radians(50.0))
BLUR_SIGMA = float(np.radians(4.0))
BLUR_SECONDS = 0.15


def contrast_saliency(
    frames: UInt8[np.ndarray, "frame row column 3"], frames_per_second: float, height: int, width: int
) -> Float32[np.ndarray, "frame height width"]:
    """Saliency of 2:1 RGB panoramas by equations (1) to (6), in [0, 1] by the minimum and maximum of all frames."""
    views = np.stack([to_views(_lab(frame)) for frame in frames])
    contrast = _on_panorama(np.stack([spectral_residual(view) for view in views]), height, width)
    motion = _on_panorama(_motion(views[..., 0]), height, width)
    weights = solid_angle_weights(height, width)
    motion = np.maximum(motion - _quantiles(motion, weights, 0.5)[:, None, None], 0)
    high = [_quantiles(maps[None], weights, HIGH_QUANTILE)[0] for maps in (contrast, motion)]
    saliency = contrast / (contrast + max(high[0], 1e-9)) + motion / (motion + max(high[1], QUIET_MOTION))
    saliency = gaussian_filter1d(blur(saliency, BLUR_SIGMA), BLUR_SECONDS * frames_per_second, axis=0, mode="nearest")
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    horizon = POLE_INTEREST + (1 - POLE_INTEREST) * np.exp(-(latitude**2) / (2 * HORIZON_SIGMA**2))
    return minmax(horizon[:, None] * saliency).astype(np.float32)


def _lab(frame: UInt8[np.ndarray, "row column 3"]) -> Float32[np.ndarray, "height width 3"]:
    """A frame reduced to the working size, in CIELAB in units of the lightness range."""
    if len(frame) > WORKING_HEIGHT:
        frame = cv2.resize(frame, (2 * WORKING_HEIGHT, WORKING_HEIGHT), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) / 100


@lru_cache(maxsize=1)
def _taper() -> Float32[np.ndarray, "size size 1"]:
    """Window that is 1 on the cube face and falls to 0 at the view's border, as the Fourier transform is periodic."""
    across = np.abs((np.arange(VIEW_SIZE) + 0.5) / VIEW_SIZE * 2 - 1)
    side = np.cos(np.clip((across - CUBE_EDGE) / (1 - CUBE_EDGE), 0, 1) * np.pi / 2) ** 2
    return (side[:, None] * side)[..., None].astype(np.float32)


def spectral_residual(views: Float32[np.ndarray, "view size size channel"]) -> Float32[np.ndarray, "view size size"]:
    """Equations (1) to (3): deviation of each place from the view's average spectrum."""
    # In double precision the mean of equal values is exact, so that a view without contrast becomes exactly 0.
    centred = views - views.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
    spectrum = np.asarray(fft.rfft2(centred * _taper(), axes=(1, 2)))
    average = _box(np.log(np.abs(spectrum) + SMALLEST_AMPLITUDE))
    # exp(R + iP) = exp(L - average) exp(iP) = F exp(-average).
    conspicuous = np.asarray(fft.irfft2(spectrum * np.exp(-average), s=views.shape[1:3], axes=(1, 2))) ** 2
    local = np.stack([_local_contrast(view) for view in centred])
    return (conspicuous * local / (local + QUIET_CONTRAST)).sum(axis=-1)


def _box(
    amplitude: Float32[np.ndarray, "view frequency half channel"],
) -> Float32[np.ndarray, "view frequency half channel"]:
    """Mean over 3 x 3 frequencies, given the half with non-negative frequencies along the second axis."""
    mirrored = np.roll(amplitude[:, ::-1], 1, axis=1)
    wide = np.concatenate([mirrored[:, :, 1:2], amplitude, mirrored[:, :, -2:-1]], axis=2)
    tall = np.concatenate([wide[:, -1:], wide, wide[:, :1]], axis=1)
    rows = tall[:, :-2] + tall[:, 1:-1] + tall[:, 2:]
    return (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / np.float32(9)


def _local_contrast(view: Float32[np.ndarray, "size size channel"]) -> Float32[np.ndarray, "size size channel"]:
    mean, square = (_smooth(values, LOCAL_SIGMA) for values in (view, view**2))
    return np.sqrt(np.maximum(square - mean**2, 0))


def _smooth(image: Float32[np.ndarray, "*size"], sigma: float) -> Float32[np.ndarray, "*size"]:
    """Gaussian blur of `sigma` pixels, cut off at 4 sigma, with repeated borders."""
    side = 2 * round(4 * sigma) + 1
    return cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)


def _motion(lightness: Float32[np.ndarray, "frame view size size"]) -> Float32[np.ndarray, "frame view size size"]:
    """Equation (4) without the median, from lightness that is blurred by one pixel against noise."""
    smooth = np.stack([[_smooth(np.ascontiguousarray(view), 1.0) for view in views] for views in lightness])
    change = np.diff(smooth, axis=0) ** 2
    if not len(change):
        return np.zeros_like(smooth)
    before, after = np.concatenate([change[:1], change]), np.concatenate([change, change[-1:]])
    return np.sqrt(before + after)


def _quantiles(
    maps: Float32[np.ndarray, "row ..."], weights: Float[np.ndarray, "height width"], share: float
) -> Float32[np.ndarray, " row"]:
    """Quantile `share` of each row of maps, weighted by solid angle; many times faster than NumPy's."""
    values = maps.reshape(len(maps), -1)
    order = values.argsort(axis=1)
    area = np.tile(weights.ravel(), values.shape[1] // weights.size)[order].cumsum(axis=1)
    place = (area < share * area[:, -1:]).sum(axis=1)
    return np.take_along_axis(values, order, axis=1)[np.arange(len(values)), place]


def _on_panorama(
    maps: Float[np.ndarray, "frame view size size"], height: int, width: int
) -> Float[np.ndarray, "frame height width"]:
    return np.stack([to_panorama(views, height, width) for views in maps])
