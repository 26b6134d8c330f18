"""The mel front end of AudioLDM: audio to natural-log mel magnitudes, in numpy.

(1) frames    x_t[n] = hann[n] * pad(x)[t * hop + n],  n = 0 .. window-1; pad: window/2 reflected samples; hann periodic
(2) magnitude S[t, f] = |sum_n x_t[n] exp(-2 pi i f n / window)|
(3) mel       M[t, m] = ln(max(floor, sum_f S[t, f] B[f, m])),  B the slaney filter bank, each band of equal area

Source: AudioLDM's front end, as the audio-video baseline uses it through transformers' SpeechT5FeatureExtractor
(which takes log10; the baseline turns it into a natural logarithm).
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from transformers.audio_utils import mel_filter_bank

from con360av_jax.config.settings import MelConfig
from con360av_jax.errors import MediaError


@lru_cache(maxsize=8)
def filter_bank(config: MelConfig) -> Float[ndarray, "frequency mel"]:
    """Slaney mel filters (mel scale and area normalisation of Slaney's Auditory Toolbox), as float64."""
    return np.asarray(
        mel_filter_bank(
            num_frequency_bins=config.window // 2 + 1,
            num_mel_filters=config.bands,
            min_frequency=config.low_hz,
            max_frequency=config.high_hz,
            sampling_rate=config.sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )
    )


def log_mel(audio: Float[ndarray, " sample"], config: MelConfig) -> Float[ndarray, "time mel"]:
    """Log-mel spectrogram of mono audio at `config.sample_rate`, exactly `len(audio) // config.hop` frames, float32.

    Frame t is centred on sample t * hop; the frame that a centred transform would add at the very end is left out.
    Raises MediaError for audio that is not mono or shorter than one hop.
    """
    if audio.ndim != 1 or len(audio) < config.hop:
        raise MediaError(
            f"audio of shape {audio.shape} has no mel frames: give one channel of at least {config.hop} samples"
        )
    padded = np.pad(audio.astype(np.float64), config.window // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, config.window)[:: config.hop][: len(audio) // config.hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.window) / config.window)
    magnitude = np.abs(np.fft.rfft(frames * hann, axis=-1))
    return np.log(np.maximum(magnitude @ filter_bank(config), config.floor)).astype(np.float32)
