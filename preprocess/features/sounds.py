"""From a clip's sound to the windows that a network hears, by the choices of a protocol."""

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float32
from scipy.signal import resample_poly

from con360av_jax.errors import MediaError, MetricError
from con360av_jax.evaluate.protocols import SoundProtocol
from preprocess.features.resample import BETA, ROLL_OFF, WIDTH, resample_kaiser

T = TypeVar("T")
Sound: TypeAlias = Float32[np.ndarray, "sample"]
Windows: TypeAlias = Float32[np.ndarray, "window sample"]

# That generated sound has, and through which the protocol "paper" sends all, Hz.
GENERATED_RATE = 16_000
POLYPHASE_WINDOW = ("kaiser", 5.0)
INT16_SCALE = 32767


def chosen(table: Mapping[str, T], text: str, what: str) -> T:
    """The entry whose key a protocol's text begins with; raises MetricError if nothing here does what it asks for."""
    for beginning, entry in table.items():
        if text.startswith(beginning):
            return entry
    raise MetricError(f"the protocol's {what} is {text!r}, which is not built; known: {', '.join(table)}")


def sound_settings(protocol: SoundProtocol) -> dict[str, object]:
    """What is done to a sound beyond what the protocol's own words say, for the card."""
    _, resampler = chosen(RESAMPLERS, protocol.resampler, "resampler")
    chosen(PADDINGS, protocol.padding, "padding")
    chosen(ROUNDINGS, protocol.rounding, "rounding")
    return {"resampled_by": resampler}


def windows_of(sound: Sound, sample_rate: int, protocol: SoundProtocol) -> Windows:
    """The windows of a sound, at the protocol's rate; float32 in [-1, 1].

    Raises MediaError for a rate that the protocol does not resample, or a sound too short for one window.
    """
    resampled, _ = chosen(RESAMPLERS, protocol.resampler, "resampler")
    rounded = chosen(ROUNDINGS, protocol.rounding, "rounding")
    cut = chosen(PADDINGS, protocol.padding, "padding")
    window, hop = (round(seconds * protocol.sample_rate) for seconds in (protocol.window_seconds, protocol.hop_seconds))
    return cut(rounded(resampled(sound, sample_rate, protocol.sample_rate)), window, hop)


def rounded_features(
    features: Float32[np.ndarray, "row dim"], protocol: SoundProtocol
) -> Float32[np.ndarray, "row dim"]:
    """Features after the rounding that the protocol asks for."""
    halved = chosen(FEATURE_ROUNDINGS, protocol.rounding, "rounding")
    return features.astype(np.float16).astype(np.float32) if halved else features


def _as_it_is(sound: Sound, sample_rate: int, wanted_rate: int) -> Sound:
    if sample_rate != wanted_rate:
        raise MediaError(
            f"its sound is at {sample_rate} Hz, the protocol wants {wanted_rate} Hz and resamples nothing: resample it "
            "yourself or use another protocol"
        )
    return sound


def _through_generated_rate(sound: Sound, sample_rate: int, wanted_rate: int) -> Sound:
    for before, after in ((sample_rate, GENERATED_RATE), (GENERATED_RATE, wanted_rate)):
        if before != after:
            common = np.gcd(before, after)
            sound = resample_poly(sound, after // common, before // common, window=POLYPHASE_WINDOW)
    return sound.astype(np.float32)


def _int16_and_back(sound: Sound) -> Sound:
    # Towards zero and by 32767 both ways, as LAION-CLAP's code.
    return np.trunc(np.clip(sound, -1, 1) * np.float32(INT16_SCALE)) / np.float32(INT16_SCALE)


def _whole_windows(sound: Sound, window: int, hop: int) -> Windows:
    if len(sound) < window:
        raise MediaError(f"its sound has {len(sound)} samples, a window of the protocol {window}: give a longer clip")
    return np.lib.stride_tricks.sliding_window_view(sound, window)[::hop]


def _zero_padded(sound: Sound, window: int, hop: int) -> Windows:
    count = -(-len(sound) // hop)
    padded = np.pad(sound, (0, max(0, window + (count - 1) * hop - len(sound))))
    return np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][:count]


def _repeated(sound: Sound, window: int, hop: int) -> Windows:
    """One window: of a longer sound its beginning."""
    whole = np.tile(sound[:window], max(1, window // len(sound)))
    return np.pad(whole, (0, window - len(whole)))[None]


# By how a protocol's words begin.
RESAMPLERS: dict[str, tuple[Callable[[Sound, int, int], Sound], str]] = {
    "none: ": (_as_it_is, "nothing; sound of another rate is rejected"),
    "16 kHz to 48 kHz": (
        _through_generated_rate,
        f"scipy.signal.resample_poly, window {POLYPHASE_WINDOW}, first to {GENERATED_RATE} Hz",
    ),
    "sinc with a Kaiser window": (
        resample_kaiser,
        f"sinc with a Kaiser window, width {WIDTH}, roll-off {ROLL_OFF}, beta {BETA}, in float64",
    ),
}
PADDINGS: dict[str, Callable[[Sound, int, int], Windows]] = {
    "none: ": _whole_windows,
    "zeros": _zero_padded,
    "repeated as often as it fits, then zeros": _repeated,
}
ROUNDINGS: dict[str, Callable[[Sound], Sound]] = {
    "none": lambda sound: sound,
    "features to int8": lambda sound: sound,  # by the network itself
    "sound to int16": _int16_and_back,
}
FEATURE_ROUNDINGS = {"none": False, "features to int8": False, "sound to int16, features to float16": True}
