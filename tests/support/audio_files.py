"""WAV files for tests of what reads audio."""

from pathlib import Path

import numpy as np
from scipy.io import wavfile


def write_wav(path: Path, audio: np.ndarray, sample_rate: int) -> None:
    """Writes 16-bit PCM; `audio` is (sample,) or (sample, channel), int16 or floating point in [-1, 1)."""
    pulses = audio if audio.dtype == np.int16 else np.round(audio * 32768).clip(-32768, 32767).astype(np.int16)
    wavfile.write(path, sample_rate, pulses)
