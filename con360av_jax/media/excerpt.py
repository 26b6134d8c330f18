"""An excerpt of a file's audio at its own rate (for quality checks) and resampled (for use)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from scipy.signal import resample_poly


@dataclass(frozen=True, kw_only=True)
class AudioExcerpt:
    """Part of a file's audio at its own rate, with the margins on both sides that resampling needs."""

    native: Float32[np.ndarray, "sample channel"]
    """Samples at the file's own rate, including the margins."""
    margin: int
    """Samples before and after the excerpt, used by resampling only."""
    up: int
    down: int
    """The target rate is up / down times the file's rate."""
    count: int
    """Samples of the excerpt at the target rate."""

    @property
    def stored(self) -> Float32[np.ndarray, "sample channel"]:
        """The excerpt at the file's own rate, without margins."""
        return self.native[self.margin : len(self.native) - self.margin]

    def resampled(self) -> Float32[np.ndarray, "sample channel"]:
        """The excerpt at the target rate, each channel resampled alone."""
        if self.up == self.down:
            return self.native[: self.count]
        first = self.margin // self.down * self.up
        whole = resample_poly(self.native, self.up, self.down, axis=0, window=("kaiser", 5.0))
        return np.ascontiguousarray(whole[first : first + self.count])
