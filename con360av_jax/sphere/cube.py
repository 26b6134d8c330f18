"""Image operators without poles or seam: panoramas as overlapping square views and back, and blur by a constant angle.

(1) view k of the cube: camera R_k, field of view 110°, so that neighbours overlap by 20°
(2) blend    S(d) = sum_k w_k(d) V_k(R_k^T d) / sum_k w_k(d),   w = (1 - max(|u|, |v|))^2 inside view k, else 0
(3) blur     B(d) = sum_e K(d.e) S(e) A(e) / sum_e K(d.e) A(e),   K(c) = exp((c - 1) / sigma^2), A = solid angle
"""

from functools import lru_cache

import cv2
import numpy as np
from einops import einsum, rearrange
from jaxtyping import Float

from con360av_jax.sphere.geometry import Places, directions, rotation

VIEW_SIZE = 64
HALF_WIDTH = float(np.tan(np.radians(110.0) / 2))
# Where the cube's own 90° faces end, as a share of half a view.
CUBE_EDGE = 1 / HALF_WIDTH
# Yaw and pitch of the six views in quarter turns: front, right, back, left, up, down.
QUARTERS = ((0, 0), (1, 0), (2, 0), (-1, 0), (0, 1), (0, -1))


def _cameras() -> Float[np.ndarray, "view world local"]:
    return np.stack([rotation(yaw * np.pi / 2, pitch * np.pi / 2) for yaw, pitch in QUARTERS])


def _view_directions() -> Float[np.ndarray, "view size size 3"]:
    across = ((np.arange(VIEW_SIZE) + 0.5) / VIEW_SIZE * 2 - 1) * HALF_WIDTH
    x, y = np.meshgrid(across, -across)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    return einsum(_cameras(), rays, "view world local, row column local -> view row column world")


@lru_cache(maxsize=4)
def _places(height: int, width: int) -> Places:
    return Places.seen_along(_view_directions(), height, width)


def to_views(panorama: Float[np.ndarray, "height width *channel"]) -> Float[np.ndarray, "view size size *channel"]:
    """The six views of a panorama, whose resolution should not be much finer than theirs (about 1.7° per pixel)."""
    return _places(*panorama.shape[:2]).sample(panorama)


@lru_cache(maxsize=4)
def _blend_maps(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Position of each panorama pixel in each view (view height width 2, pixels) and the view's weight there."""
    local = einsum(_cameras(), directions(height, width), "view world local, row column world -> view row column local")
    depth = np.maximum(local[..., 2], 1e-6)
    across = np.stack([local[..., 0] / depth, -local[..., 1] / depth], axis=-1) / HALF_WIDTH
    weight = np.clip(1 - np.abs(across).max(axis=-1), 0, None) ** 2 * (local[..., 2] > 0)
    pixels = (np.clip(across, -1, 1) + 1) / 2 * VIEW_SIZE - 0.5
    return pixels.astype(np.float32), (weight / weight.sum(axis=0)).astype(np.float32)


def to_panorama(
    views: Float[np.ndarray, "view size size"], height: int, width: int
) -> Float[np.ndarray, "height width"]:
    """Blends maps on the six views into one on the panorama, equation (2)."""
    pixels, shares = _blend_maps(height, width)
    parts = [
        cv2.remap(
            view.astype(np.float32), pixel[..., 0], pixel[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        * share
        for view, pixel, share in zip(views, pixels, shares, strict=True)
    ]
    return np.sum(parts, axis=0)


@lru_cache(maxsize=4)
def _blur_spectrum(height: int, width: int, sigma: float) -> Float[np.ndarray, "wave row source"]:
    """Kernel of equation (3) between rows, Fourier-transformed over the difference in longitude."""
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    longitude = np.arange(width) / width * 2 * np.pi
    sine = np.sin(latitude)[:, None] * np.sin(latitude)
    cosine = np.cos(latitude)[:, None] * np.cos(latitude)
    kernel = np.exp((sine[..., None] + cosine[..., None] * np.cos(longitude) - 1) / sigma**2)
    kernel *= np.cos(latitude)[:, None]
    kernel /= kernel.sum(axis=(1, 2), keepdims=True)
    # The kernel is even in longitude, so its spectrum is real.
    return np.ascontiguousarray(rearrange(np.fft.rfft(kernel, axis=-1).real, "row source wave -> wave row source"))


def blur(maps: Float[np.ndarray, "frame height width"], sigma: float) -> Float[np.ndarray, "frame height width"]:
    """Gaussian-like blur of standard deviation `sigma` (rad), the same angle everywhere on the sphere, equation (3)."""
    _, height, width = maps.shape
    spectrum = rearrange(np.fft.rfft(maps, axis=-1), "frame source wave -> wave source frame")
    # Real and imaginary parts side by side, so that the product is one of real matrices.
    blurred = _blur_spectrum(height, width, sigma) @ np.ascontiguousarray(spectrum, np.complex128).view(np.float64)
    blurred = rearrange(blurred.view(np.complex128), "wave row frame -> frame row wave")
    return np.fft.irfft(blurred, n=width, axis=-1)
