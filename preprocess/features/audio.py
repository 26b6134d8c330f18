"""Windows of audio as networks take them: resampled, rounded, cut and padded as a protocol says."""

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float32
from scipy.signal import resample_poly

from con360av_jax.errors import MediaError, MetricError
from con360av_jax.evaluate.protocols import AudioProtocol
from preprocess.features.resample import BETA, ROLL_OFF, WIDTH, resample_kaiser

T = TypeVar("T")
Audio: TypeAlias = Float32[np.ndarray, "sample"]
Windows: TypeAlias = Float32[np.ndarray, "window sample"]

# Sample rate of generated audio, to which the protocol "paper" resamples all audio first, Hz.
GENERATED_RATE = 16_000
POLYPHASE_WINDOW = ("kaiser", 5.0)
INT16_SCALE = 32767


def chosen(table: Mapping[str, T], text: str, what: str) -> T:
    """The entry whose key is the beginning of a protocol's text; raises MetricError if there is none."""
    for beginning, entry in table.items():
        if text.startswith(beginning):
            return entry
    raise MetricError(f"the protocol's {what} is {text!r}, which is not built; known: {', '.join(table)}")


def audio_settings(protocol: AudioProtocol) -> dict[str, object]:
    """Processing of audio that the protocol's own words leave open, for the feature card."""
    _, resampler = chosen(RESAMPLERS, protocol.resampler, "resampler")
    chosen(PADDINGS, protocol.padding, "padding")
    chosen(ROUNDINGS, protocol.rounding, "rounding")
    return {"resampled_by": resampler}


def windows_of(audio: Audio, sample_rate: int, protocol: AudioProtocol) -> Windows:
    """Windows of mono audio at the protocol's sample rate, float32 in [-1, 1].

    Raises MediaError if the protocol does not resample from `sample_rate`, or the audio is shorter than one window.
    """
    resampled, _ = chosen(RESAMPLERS, protocol.resampler, "resampler")
    rounded = chosen(ROUNDINGS, protocol.rounding, "rounding")
    cut = chosen(PADDINGS, protocol.padding, "padding")
    window, hop = (round(seconds * protocol.sample_rate) for seconds in (protocol.window_seconds, protocol.hop_seconds))
    return cut(rounded(resampled(audio, sample_rate, protocol.sample_rate)), window, hop)


def rounded_features(
    features: Float32[np.ndarray, "row dim"], protocol: AudioProtocol
) -> Float32[np.ndarray, "row dim"]:
    """Features with the protocol's rounding."""
    halved = chosen(FEATURE_ROUNDINGS, protocol.rounding, "rounding")
    return features.astype(np.float16).astype(np.float32) if halved else features


def _as_it_is(audio: Audio, sample_rate: int, wanted_rate: int) -> Audio:
    if sample_rate != wanted_rate:
        raise MediaError(
            f"its audio is at {sample_rate} Hz, the protocol wants {wanted_rate} Hz and resamples nothing: resample it "
            "yourself or use another protocol"
        )
    return audio


def _through_generated_rate(audio: Audio, sample_rate: int, wanted_rate: int) -> Audio:
    for before, after in ((sample_rate, GENERATED_RATE), (GENERATED_RATE, wanted_rate)):
        if before != after:
            common = np.gcd(before, after)
            audio = resample_poly(audio, after // common, before // common, window=POLYPHASE_WINDOW)
    return audio.astype(np.float32)


def _int16_and_back(audio: Audio) -> Audio:
    # Rounds towards zero and scales by 32767 both ways, as LAION-CLAP's code does.
    return np.trunc(np.clip(audio, -1, 1) * np.float32(INT16_SCALE)) / np.float32(INT16_SCALE)


def _whole_windows(audio: Audio, window: int, hop: int) -> Windows:
    if len(audio) < window:
        raise MediaError(f"its audio has {len(audio)} samples, a window of the protocol {window}: give a longer clip")
    return np.lib.stride_tricks.sliding_window_view(audio, window)[::hop]


def _zero_padded(audio: Audio, window: int, hop: int) -> Windows:
    count = -(-len(audio) // hop)
    padded = np.pad(audio, (0, max(0, window + (count - 1) * hop - len(audio))))
    return np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][:count]


def _repeated(audio: Audio, window: int, hop: int) -> Windows:
    """One window; longer audio is cut to its beginning."""
    whole = np.tile(audio[:window], max(1, window // len(audio)))
    return np.pad(whole, (0, window - len(whole)))[None]


# Functions by the beginning of a protocol's text.
RESAMPLERS: dict[str, tuple[Callable[[Audio, int, int], Audio], str]] = {
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
PADDINGS: dict[str, Callable[[Audio, int, int], Windows]] = {
    "none: ": _whole_windows,
    "zeros": _zero_padded,
    "repeated as often as it fits, then zeros": _repeated,
}
ROUNDINGS: dict[str, Callable[[Audio], Audio]] = {
    "none": lambda audio: audio,
    "features to int8": lambda audio: audio,  # done by the network itself
    "sound to int16": _int16_and_back,
}
FEATURE_ROUNDINGS = {"none": False, "features to int8": False, "sound to int16, features to float16": True}
