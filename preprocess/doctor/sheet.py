"""Rows of the contact sheet: a record's arrays as small images and audio, embedded in the page."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from scipy.io import wavfile

from con360av_jax.config.settings import Config
from con360av_jax.data.schema import SampleEntry
from con360av_jax.data.source import PREVIEWS, preview_name
from con360av_jax.pages.figures import data_uri, draw_footprint, image_uri, saliency_overlay, viewpoint_colour
from con360av_jax.sphere.geometry import basd
from preprocess.doctor.content import loudness

PANORAMA_WIDTH = 640
MAP_WIDTH = 320
VIEW_SIZE = 176
MEL_SIZE = (320, 160)


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image of a row and its description."""

    uri: str
    about: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sample on the contact sheet."""

    entry: SampleEntry
    colour: str
    """Colour of the viewpoint's outline."""
    angles: str
    """Direction and field of view in the middle of the segment, as text."""
    panorama: Image | None
    views: Sequence[Image]
    maps: Sequence[Image]
    audio: str
    """WAV file as data URI; empty if the dataset keeps no audio."""
    level: str
    failed: Sequence[str]
    """Checks that found something in this sample."""


def make_row(
    entry: SampleEntry, arrays: Mapping[str, np.ndarray], config: Config, folder: Path, failed: Sequence[str]
) -> Row:
    """The row of one sample, made from its intact arrays."""
    track = arrays.get("viewpoint")
    middle = None if track is None else track[len(track) // 2]
    audio = arrays.get("sound")
    return Row(
        entry=entry,
        colour=viewpoint_colour(entry.viewpoint_index),
        angles="" if track is None else _angles(track),
        panorama=_panorama(entry, arrays, middle, folder),
        views=_views(arrays),
        maps=[*_maps(entry, arrays, middle), *_audio_images(arrays)],
        audio="" if audio is None else _wav(audio, config.mel.sample_rate),
        level="" if audio is None else f"{loudness(audio):.0f} dBFS",
        failed=failed,
    )


def _angles(track: Float[np.ndarray, "frame 4"]) -> str:
    yaw, pitch, width, height = np.degrees(track[len(track) // 2]).tolist()
    moves = ", moves (middle frame)" if float(np.ptp(track, axis=0).max()) > 1e-4 else ""
    return f"yaw {yaw:.0f}°, pitch {pitch:.0f}°, field of view {width:.0f}° × {height:.0f}°{moves}"


def _panorama(
    entry: SampleEntry, arrays: Mapping[str, np.ndarray], viewpoint: np.ndarray | None, folder: Path
) -> Image | None:
    """The segment's panorama, or without previews its saliency, with the outline of the viewpoint."""
    size = (PANORAMA_WIDTH, PANORAMA_WIDTH // 2)
    file = folder / PREVIEWS / preview_name(entry.clip, entry.segment)
    preview = cv2.imread(str(file)) if file.is_file() else None
    if preview is not None:
        image = cv2.resize(cv2.cvtColor(preview, cv2.COLOR_BGR2RGB), size, interpolation=cv2.INTER_AREA)
        about = "panorama"
    elif "saliency" in arrays:
        dark = np.zeros((size[1], size[0], 3), np.uint8)
        image = saliency_overlay(dark, _middle(arrays["saliency"])[..., 0], strength=1.0)
        about = "saliency: the dataset has no previews of its panoramas"
    else:
        return None
    if viewpoint is not None:
        image = draw_footprint(image, viewpoint, entry.viewpoint_index)
        about += ", with the outline of the view"
    return Image(uri=image_uri(image), about=about)


def _views(arrays: Mapping[str, np.ndarray]) -> list[Image]:
    """First, middle and last frame; false colours of the latents if no frames are kept."""
    if "video" in arrays:
        frames, kind = arrays["video"], ""
    elif "video_latent_mean" in arrays:
        frames, kind = _false_colours(arrays["video_latent_mean"]), " frame, latent"
    else:
        return []
    names = {"first": 0, "middle": len(frames) // 2, "last": len(frames) - 1}
    return [
        Image(uri=image_uri(_enlarged(frames[number], VIEW_SIZE, VIEW_SIZE)), about=f"{name}{kind or ' frame'}")
        for name, number in names.items()
    ]


def _false_colours(latents: Float[np.ndarray, "frame height width channel"]) -> UInt8[np.ndarray, "frame h w 3"]:
    """The first three channels of latents as red, green and blue."""
    return np.ascontiguousarray((_stretched(latents[..., :3], 99) * 255).astype(np.uint8))


def _maps(entry: SampleEntry, arrays: Mapping[str, np.ndarray], viewpoint: np.ndarray | None) -> list[Image]:
    images = []
    height = MAP_WIDTH // 2
    if "saliency" in arrays:
        image = _coloured(_enlarged(_middle(arrays["saliency"])[..., 0], MAP_WIDTH, height), "inferno")
        images.append(Image(uri=image_uri(image), about="saliency, middle frame"))
    if viewpoint is not None:
        track = np.asarray(viewpoint)[None]
        drawn = _coloured(basd(track, height, MAP_WIDTH)[0], "viridis")
        image = draw_footprint(drawn, viewpoint, entry.viewpoint_index, thickness=1)
        images.append(Image(uri=image_uri(image), about="BASD: bright inside the view"))
    return images


def _audio_images(arrays: Mapping[str, np.ndarray]) -> list[Image]:
    if "mel" in arrays:
        values, about = arrays["mel"], "log-mel: time to the right, frequency up"
    elif "audio_latent_mean" in arrays:
        values = arrays["audio_latent_mean"].mean(axis=-1)
        about = "audio latent, mean of its channels; no mel is kept"
    else:
        return []
    image = _coloured(_enlarged(np.ascontiguousarray(_stretched(values, 99.8).T[::-1]), *MEL_SIZE), "magma")
    return [Image(uri=image_uri(image), about=about)]


def _stretched(values: np.ndarray, upper: float) -> np.ndarray:
    """Values from their first percentile to the `upper` one, as 0 to 1."""
    low, high = np.percentile(values, (1, upper))
    return np.clip((values - low) / max(float(high - low), 1e-6), 0, 1)


def _middle(frames: np.ndarray) -> np.ndarray:
    return frames[len(frames) // 2]


def _enlarged(image: np.ndarray, width: int, height: int) -> np.ndarray:
    shrinks = image.shape[1] > width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _coloured(values: Float[np.ndarray, "height width"], colours: str) -> UInt8[np.ndarray, "height width 3"]:
    return (colormaps[colours](np.clip(values, 0, 1))[..., :3] * 255).astype(np.uint8)


def _wav(audio: np.ndarray, sample_rate: int) -> str:
    file = io.BytesIO()
    wavfile.write(file, sample_rate, audio)
    return data_uri(file.getvalue(), "audio/wav")
