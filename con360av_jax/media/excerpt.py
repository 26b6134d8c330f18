"""An excerpt of a file's sound: as it is stored, for those who judge it, and resampled, for those who use it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from scipy.signal import resample_poly


@dataclass(frozen=True, kw_only=True)
class AudioExcerpt:
    """Part of a file's sound as it is stored, with what is needed on both sides to resample it."""

    native: Float32[np.ndarray, "sample channel"]
    """At the file's own rate, with the margins."""
    margin: int
    """Samples before and after the excerpt that serve only resampling."""
    up: int
    down: int
    """The wanted rate is up / down of the file's."""
    count: int
    """Samples of the excerpt at the wanted rate."""

    @property
    def stored(self) -> Float32[np.ndarray, "sample channel"]:
        """The excerpt at the file's own rate, without margins."""
        return self.native[self.margin : len(self.native) - self.margin]

    def resampled(self) -> Float32[np.ndarray, "sample channel"]:
        """The excerpt at the wanted rate, each channel by itself."""
        if self.up == self.down:
            return self.native[: self.count]
        first = self.margin // self.down * self.up
        whole = resample_poly(self.native, self.up, self.down, axis=0, window=("kaiser", 5.0))
        return np.ascontiguousarray(whole[first : first + self.count])
