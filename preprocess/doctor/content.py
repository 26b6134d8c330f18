"""Checks of one record's arrays; each yields one sentence per fault."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np

from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.data.schema import SALIENCY_TOLERANCE, Sample, sample_key, validate
from con360av_jax.errors import DatasetError

Arrays: TypeAlias = Mapping[str, np.ndarray]
"""Intact fields of a record: of the right shape and dtype, and finite."""

SILENCE_DB = -70.0
FULL_SCALE = 32767
CLIPPED_SHARE = 1e-3
FROZEN_LEVELS = 0.5
"""Largest mean difference from the first frame, of 255, that a video codec alone causes in a still video."""
BLACK_LEVEL = 4.0
"""Mean value, of 255, below which a frame counts as black."""
LEAST_CONTRAST = 1e-3
LARGEST_LATENT = 100.0
LENGTH_TOLERANCE = 1e-3
ANGLE_TOLERANCE = 1e-5


def intact_fields(
    sample: Sample, config: Config, fields: tuple[str, ...], found: Callable[[str, str], None]
) -> dict[str, np.ndarray]:
    """Intact arrays, on which later checks can rely; calls `found` with check and fault for every other field."""

    def fits(arrays: dict[str, np.ndarray], wanted: tuple[str, ...]) -> bool:
        try:
            validate(replace(sample, arrays=arrays), config, wanted)
        except DatasetError as error:
            found("schema", str(error))
            return False
        return True

    if not fits({}, ()):
        # Otherwise every call below would report the wrong key again.
        sample = replace(sample, key=sample_key(sample.clip, sample.segment, sample.viewpoint_index))
    fits({name: array for name, array in sample.arrays.items() if name not in fields}, ())
    intact: dict[str, np.ndarray] = {}
    for name in fields:
        array = sample.arrays.get(name)
        if array is not None and array.dtype.kind == "f":
            bad = array.size - int(np.isfinite(array).sum())
            if bad:
                found("finite numbers", f"{name} holds NaN or infinity in {bad} of {array.size} places")
                continue
        if name == "saliency" and array is not None and array.size:
            low, high = float(array.min()), float(array.max())
            if low < -SALIENCY_TOLERANCE or high > 1 + SALIENCY_TOLERANCE:
                found("saliency range", f"saliency lies in [{low:g}, {high:g}]")
                continue
        if fits({} if array is None else {name: array}, (name,)) and array is not None:
            intact[name] = array
    return intact


def viewpoint_angles(arrays: Arrays, config: Config) -> Iterator[str]:
    """Finds angles outside the range of cameras."""
    limits = {
        "yaw": (-math.pi - ANGLE_TOLERANCE, math.pi + ANGLE_TOLERANCE),
        "pitch": (-math.pi / 2 - ANGLE_TOLERANCE, math.pi / 2 + ANGLE_TOLERANCE),
        "horizontal field of view": (np.nextafter(0, 1), np.nextafter(np.float32(np.pi), np.float32(0))),
        "vertical field of view": (np.nextafter(0, 1), np.nextafter(np.float32(np.pi), np.float32(0))),
    }
    for (name, (low, high)), values in zip(limits.items(), arrays["viewpoint"].T, strict=True):
        least, most = float(values.min()), float(values.max())
        if least < low or most > high:
            yield f"{name} reaches from {math.degrees(least):.4g}° to {math.degrees(most):.4g}°"


def latent_spread(arrays: Arrays, config: Config) -> Iterator[str]:
    """Finds negative standard deviations."""
    for name in MODALITIES:
        spread = arrays.get(f"{name}_latent_std")
        if spread is not None and (least := float(spread.min())) < 0:
            yield f"the {name} latent's standard deviation falls to {least:.4g}"


def latent_size(arrays: Arrays, config: Config) -> Iterator[str]:
    """Finds means far outside the unit variance of scaled latents."""
    for name in MODALITIES:
        mean = arrays.get(f"{name}_latent_mean")
        if mean is not None and (most := float(np.abs(mean).max())) > LARGEST_LATENT:
            yield f"the {name} latent's mean reaches {most:.4g}"


def caption_vector(arrays: Arrays, config: Config) -> Iterator[str]:
    """Finds a CLAP vector that is not of unit length."""
    length = float(np.linalg.norm(arrays["clap_text"].astype(np.float64)))
    if abs(length - 1) > LENGTH_TOLERANCE:
        yield f"the CLAP vector's length is {length:.4g}"


def mel_floor(arrays: Arrays, config: Config) -> Iterator[str]:
    """Finds a mel below the floor of the config."""
    least, floor = float(arrays["mel"].min()), math.log(config.mel.floor)
    if least < floor - 1e-3:
        yield f"the mel falls to {least:.4g}, below its floor of {floor:.4g}"


def loudness(audio: np.ndarray) -> float:
    """RMS level of 16-bit audio, dBFS; -120 for digital silence."""
    power = float(np.mean(np.square(audio.astype(np.float32) / 32768)))
    return max(10 * math.log10(power), -120.0) if power > 0 else -120.0


def silent_sound(arrays: Arrays, config: Config) -> Iterator[str]:
    """Finds silence, by the samples or, if only the mel is kept, by a mel at its floor."""
    if "sound" in arrays:
        level = loudness(arrays["sound"])
        if level < SILENCE_DB:
            yield f"the audio level is {level:.0f} dBFS" if level > -120 else "every audio sample is 0"
    elif float(arrays["mel"].max()) <= math.log(config.mel.floor) + 1e-3:
        yield "the whole mel is at its floor"


def clipped_sound(arrays: Arrays, config: Config) -> Iterator[str]:
    """Finds audio that was too loud for 16 bits."""
    audio = arrays["sound"]
    share = float(((audio >= FULL_SCALE) | (audio <= -FULL_SCALE)).mean())
    if share >= CLIPPED_SHARE:
        yield f"{100 * share:.2g} % of the audio samples are at full scale"


def black_picture(arrays: Arrays, config: Config) -> Iterator[str]:
    """Finds black frames."""
    video = arrays["video"]
    black = int((video.mean(axis=(1, 2, 3)) < BLACK_LEVEL).sum())
    if black:
        yield f"{black} of {len(video)} frames are black"


def frozen_picture(arrays: Arrays, config: Config) -> Iterator[str]:
    """Finds video in which all frames are equal, by the pixels or, if only latents are kept, by their means."""
    if "video" in arrays:
        video = arrays["video"].astype(np.int16)
        change = max((float(np.abs(frame - video[0]).mean()) for frame in video[1:]), default=255.0)
        # Video that is black throughout is reported once, by `black_picture`.
        if change <= FROZEN_LEVELS and video[0].mean() >= BLACK_LEVEL:
            yield f"no frame differs from the first by more than {change:.2g} of 255 levels on average"
        return
    mean = arrays["video_latent_mean"]
    if len(mean) > 1 and (mean == mean[0]).all():
        yield "the video latents are the same in every frame; the frames themselves are not kept"


def saliency_contrast(arrays: Arrays, config: Config) -> Iterator[str]:
    """Finds maps that are the same everywhere."""
    contrast = float(np.ptp(arrays["saliency"]))
    if contrast < LEAST_CONTRAST:
        yield f"saliency differs by no more than {contrast:.2g} over the segment"


class ContentCheck(NamedTuple):
    """A check of arrays, and the fields of which it needs at least one."""

    find: Callable[[Arrays, Config], Iterator[str]]
    needs: tuple[str, ...]


CONTENT: dict[str, ContentCheck] = {
    "viewpoint angles": ContentCheck(viewpoint_angles, ("viewpoint",)),
    "latent spread": ContentCheck(latent_spread, ("audio_latent_std", "video_latent_std")),
    "latent size": ContentCheck(latent_size, ("audio_latent_mean", "video_latent_mean")),
    "caption vector": ContentCheck(caption_vector, ("clap_text",)),
    "mel floor": ContentCheck(mel_floor, ("mel",)),
    "silent sound": ContentCheck(silent_sound, ("sound", "mel")),
    "clipped sound": ContentCheck(clipped_sound, ("sound",)),
    "black picture": ContentCheck(black_picture, ("video",)),
    "frozen picture": ContentCheck(frozen_picture, ("video", "video_latent_mean")),
    "saliency contrast": ContentCheck(saliency_contrast, ("saliency",)),
}
