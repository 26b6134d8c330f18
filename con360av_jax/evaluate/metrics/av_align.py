"""Agreement of a clip's audio and video in time (AV-Align), and the error of a direction, in numpy and OpenCV.

(1) rise      f_t = mean over bands of max(0, D_t - D_(t-1)),  D = 20 log10 magnitude, at most 80 dB below its maximum
(2) onset     f_t is the largest within 30 ms, >= least rise, and f_t / max f >= mean of that within 100 ms + 0.07
(3) motion    m_i = mean length of the optical flow from frame i-1 to i, pixels;  m_0 = m_1
(4) peak      m_(i-1) < m_i > m_(i+1), at i / fps seconds
(5) agreement c / (onsets + peaks - c),  c = number of onsets nearer than the tolerance to some peak
(6) angle     atan2(|d x t|, d . t) between the directions d seen and t true

(3) to (5) and the tolerance of one frame are those of AV-Align (Yariv et al., "Diverse and Aligned Audio-to-Video
Generation via Text-to-Video Model Adaptation", arXiv 2309.16429) and its code, in which several onsets may match one
peak. AV-Align takes librosa's onsets; (1) and (2) have the same thresholds, widths and shift by half a window, on
AudioLDM's mel, with one change: a maximum is two-sided, because a rise takes several of the mel's 10-ms frames.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from con360av_jax.config.settings import MelConfig
from con360av_jax.errors import MetricError

RANGE = 80.0  # dB
MAXIMUM_WITHIN = 0.03  # seconds to either side
MEAN_WITHIN = 0.1  # seconds to either side
ABOVE_MEAN = 0.07  # of the largest rise
LEAST_RISE = 0.2  # dB; not in AV-Align: above the ripple of a steady tone
# pyramid scale, levels, window size, iterations, neighbourhood size, its Gaussian sigma, flags
_FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)


def mel_onsets(mel: Float[np.ndarray, "time mel"], config: MelConfig) -> Float[np.ndarray, "onset"]:
    """Times of audio onsets, seconds, from a log-mel spectrogram of `log_mel` (equations 1 and 2).

    Raises MetricError unless it has two axes, at least two frames and only finite values.
    """
    if mel.ndim != 2 or len(mel) < 2 or not mel.size or not np.isfinite(mel).all():
        raise MetricError(f"a mel of shape {mel.shape}: give (time, mel) of at least two frames, all finite")
    decibel = mel.astype(np.float64) * (20 / np.log(10))
    decibel = np.maximum(decibel, decibel.max() - RANGE)
    rise = np.maximum(np.diff(decibel, axis=0, prepend=decibel[:1]), 0).mean(axis=1)
    if rise.max() < LEAST_RISE:
        return np.zeros(0)
    relative = rise / rise.max()
    rate = config.sample_rate / config.hop
    largest = maximum_filter1d(relative, 2 * round(MAXIMUM_WITHIN * rate) + 1, mode="constant", cval=0.0)
    mean = uniform_filter1d(relative, 2 * round(MEAN_WITHIN * rate) + 1, mode="nearest")
    found = (relative == largest) & (relative >= mean + ABOVE_MEAN) & (rise >= LEAST_RISE)
    # A window contains a sound half its length before the time of its frame.
    return (np.flatnonzero(found) + config.window // (2 * config.hop)) / rate


def flow_magnitude(frames: UInt8[np.ndarray, "frame height width 3"]) -> Float[np.ndarray, "frame"]:
    """Mean length of the optical flow from the previous frame to each frame, pixels (equation 3, Farnebäck's method).

    Raises MetricError unless frames are RGB, uint8 and at least two.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) < 2:
        raise MetricError(
            f"frames of shape {frames.shape}, {frames.dtype}: give at least two of height, width, 3, uint8"
        )
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    lengths = []
    for before, after in zip(grey[:-1], grey[1:], strict=True):
        flow = cv2.calcOpticalFlowFarneback(before, after, np.zeros((*before.shape, 2), np.float32), *_FARNEBACK)
        lengths.append(float(np.hypot(flow[..., 0], flow[..., 1]).mean()))
    return np.array([lengths[0], *lengths])


def flow_peaks(magnitude: Float[np.ndarray, "frame"], frames_per_second: float) -> Float[np.ndarray, "peak"]:
    """Times of motion peaks, seconds (equation 4)."""
    inner = magnitude[1:-1]
    return (np.flatnonzero((inner > magnitude[:-2]) & (inner > magnitude[2:])) + 1) / frames_per_second


def onset_agreement(
    onsets: Float[np.ndarray, "onset"], peaks: Float[np.ndarray, "peak"], tolerance: float
) -> float | None:
    """Agreement of onsets and peaks (equation 5), all in seconds; AV-Align's tolerance is one video frame.

    0 if no onset matches a peak, 1 if each onset has its own peak, above 1 if several onsets share a peak (as in
    AV-Align's code); None without onsets and peaks, which means exclude.

    Raises MetricError unless the tolerance is above 0.
    """
    if not tolerance > 0:
        raise MetricError(f"a tolerance of {tolerance:g} s: give one above 0, such as one video frame")
    near = np.abs(np.asarray(onsets)[:, None] - np.asarray(peaks)[None, :]) < tolerance
    agreeing = int(near.any(axis=1).sum())
    union = len(onsets) + len(peaks) - agreeing
    return agreeing / union if union else None


def av_align(
    frames: UInt8[np.ndarray, "frame height width 3"],
    frames_per_second: float,
    mel: Float[np.ndarray, "time mel"],
    config: MelConfig,
) -> float | None:
    """AV-Align of one clip whose audio and video start together.

    Raises MetricError as `flow_magnitude` and `mel_onsets` do, or unless the frame rate is above 0.
    """
    if not frames_per_second > 0:
        raise MetricError(f"{frames_per_second:g} frames per second: give a rate above 0")
    peaks = flow_peaks(flow_magnitude(frames), frames_per_second)
    return onset_agreement(mel_onsets(mel, config), peaks, 1 / frames_per_second)


def direction_error(
    seen: Float[np.ndarray, "frame 3"], true: Float[np.ndarray, "frame 3"]
) -> Float[np.ndarray, "frame"]:
    """Angle between directions of any length, degrees from 0 to 180 (equation 6); NaN where either is NaN.

    Raises MetricError if shapes do not match or a vector has no length.
    """
    if np.shape(seen) != np.shape(true) or np.shape(seen)[-1:] != (3,):
        raise MetricError(f"directions of {np.shape(seen)} and {np.shape(true)}: give (frame, 3) twice")
    if any((np.linalg.norm(side, axis=-1) == 0).any() for side in (seen, true)):
        raise MetricError("a direction is (0, 0, 0) and points nowhere: give nan for frames without one")
    across = np.linalg.norm(np.cross(seen, true), axis=-1)
    return np.degrees(np.arctan2(across, np.einsum("fd,fd->f", seen, true)))
