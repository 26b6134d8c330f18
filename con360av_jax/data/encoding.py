"""Fields of a dataset's records: raw arrays, arrays of frozen encoders, or both."""

from typing import Protocol, TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax.data.schema import MAP_FIELDS, RAW_FIELDS

View: TypeAlias = UInt8[np.ndarray, "frame height width 3"]
Mel: TypeAlias = Float32[np.ndarray, "time mel"]


class Encoder(Protocol):
    """Encodes one view, its mel spectrogram and its caption into the arrays named `fields`."""

    fields: tuple[str, ...]

    def __call__(self, view: View, mel: Mel, caption: str) -> dict[str, np.ndarray]: ...


class NoEncoder:
    """Encodes nothing: records hold raw video and audio."""

    fields: tuple[str, ...] = ()

    def __call__(self, view: View, mel: Mel, caption: str) -> dict[str, np.ndarray]:
        """Returns no arrays."""
        return {}


def record_fields(encoder: Encoder, keep_raw: bool) -> tuple[str, ...]:
    """Returns the fields of every record: raw arrays if wanted or if nothing is encoded, encoded arrays, and maps."""
    raw = RAW_FIELDS if keep_raw or not encoder.fields else ()
    return (*raw, *encoder.fields, *MAP_FIELDS)
