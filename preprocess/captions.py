"""Stage 6, captions: one sentence on the whole scene; given in files, built from what was measured, or by models."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import cv2
import numpy as np
from jaxtyping import Float

from con360av_jax.errors import ConfigError, DatasetError
from preprocess.segment import Segment
from preprocess.work import Stage, each, there

if TYPE_CHECKING:
    from preprocess.captioning.backend import ModelCaptions

CaptionName = Literal["file", "template", "blip2+llama"]
Tracks = Sequence[Float[np.ndarray, "frame 4"]]
# Upper bounds of mean lightness (of 1), of mean change between frames (of 1) and of loudness (dBFS), with their words.
BRIGHTNESS = ((0.25, "dark"), (0.45, "dim"), (0.65, "well lit"), (float("inf"), "bright"))
MOTION = ((0.004, "little motion"), (0.02, "some motion"), (float("inf"), "strong motion"))
LOUDNESS = ((-80.0, "no sound"), (-40.0, "quiet sound"), (-20.0, "clear sound"), (float("inf"), "loud sound"))
# Pitch beyond which a place is above or below rather than at a side, rad.
STEEP = float(np.radians(45))


class CaptionBackend(Protocol):
    """A caption of the segment, given the viewpoints found in it."""

    def __call__(self, segment: Segment, tracks: Tracks) -> str: ...


def file_caption(segment: Segment, tracks: Tracks) -> str:
    """The text in `<video>.txt`, or the line of `captions.jsonl` beside the video: {"file": name, "caption": text}.

    Raises DatasetError if neither holds a caption for the video.
    """
    path = segment.window.clip.path
    text = path.with_suffix(".txt")
    listing = path.parent / "captions.jsonl"
    if text.is_file():
        caption = text.read_text(encoding="utf-8")
    else:
        captions = _listed(listing) if listing.is_file() else {}
        caption = captions.get(path.name, captions.get(path.stem, ""))
    caption = " ".join(caption.split())
    if not caption:
        raise DatasetError(f"{path}: has no caption; add {text.name}, a line in {listing}, or use --captions template")
    return caption


@lru_cache(maxsize=16)
def _listed(path: Path) -> dict[str, str]:
    captions = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            captions[str(entry["file"])] = str(entry["caption"])
        except (ValueError, TypeError, KeyError) as error:
            raise DatasetError(
                f'{path}: line {number} is not {{"file": .., "caption": ..}} ({error!r}); correct or delete it'
            ) from error
    return captions


def template_caption(segment: Segment, tracks: Tracks) -> str:
    """A sentence of measured facts only: light, motion, loudness, and where the salient places are."""
    grey = np.stack([cv2.resize(frame, (64, 32), interpolation=cv2.INTER_AREA) for frame in segment.frames]).mean(-1)
    weights = np.cos((0.5 - (np.arange(32) + 0.5) / 32) * np.pi)[:, None] / 255
    area = weights.sum() * 64 * 255
    light = float((grey.mean(0) * weights).sum() / area)
    change = np.abs(np.diff(grey, axis=0)).mean(0) if len(grey) > 1 else np.zeros_like(grey[0])
    motion = float((change * weights).sum() / area)
    power = float(np.mean(segment.sound.astype(np.float64) ** 2))
    loudness = 10 * np.log10(power + 1e-12)
    places = list(dict.fromkeys(place(track) for track in tracks))
    where = " and ".join([", ".join(places[:-1]), places[-1]] if len(places) > 1 else places)
    return (
        f"A {_word(BRIGHTNESS, light)} 360° scene with {_word(MOTION, motion)} and {_word(LOUDNESS, loudness)}; "
        f"the eye is drawn {where}."
    )


def place(track: Float[np.ndarray, "frame 4"]) -> str:
    """Where a viewpoint looks in the middle of the segment, in words."""
    yaw, pitch = track[len(track) // 2, :2]
    if abs(pitch) > STEEP:
        return "above" if pitch > 0 else "below"
    quarters = ("ahead", "to the right", "behind", "to the left")
    return quarters[round(float(yaw) / (np.pi / 2)) % 4]


def _word(scale: Sequence[tuple[float, str]], value: float) -> str:
    return next(word for bound, word in scale if value < bound)


CAPTION_BACKENDS: dict[CaptionName, CaptionBackend] = {
    "file": file_caption,
    "template": template_caption,
}


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """What `blip2+llama` needs to know; the other backends need nothing."""

    faces: str = ""
    """Folder or Hugging Face id of a BLIP-2."""
    join: str = ""
    """Folder or Hugging Face id of a chat model."""
    prompts: Path | None = None
    """TOML file; None takes the prompts of the package."""
    texts: Path = Path("captions")
    """Folder that keeps every text."""
    device: str = "auto"
    batch_size: int = 24
    """Faces in one call of BLIP-2."""
    from_hub: bool = False
    """Whether ids may be downloaded."""


def open_captions(name: CaptionName, settings: CaptionSettings, frames_per_second: float) -> CaptionBackend:
    """The backend of that name; models are checked now and loaded when they are first needed.

    Args:
        name: of the backend.
        settings: of the models.
        frames_per_second: of the segments.

    Raises:
        ConfigError: a model is not given, or given in vain, or the prompts or the device cannot be used.
        CheckpointError: a model's folder is missing or of another kind, or torch is not installed.
    """
    if name == "blip2+llama":
        return open_models(settings, frames_per_second)
    if settings.faces or settings.join or settings.prompts:
        raise ConfigError(f"--captions {name} uses no models; give --captions blip2+llama or no --caption-.. options")
    return CAPTION_BACKENDS[name]


def open_models(settings: CaptionSettings, frames_per_second: float) -> "ModelCaptions":
    """Both stages of `blip2+llama`, which may also be run one after the other; raises as `open_captions` does."""
    for option, given in (("--caption-faces", settings.faces), ("--caption-join", settings.join)):
        if not given:
            raise ConfigError(f"--captions blip2+llama needs {option}: give a model's folder or its Hugging Face id")
    if settings.batch_size < 1:
        raise ConfigError(f"--caption-batch is {settings.batch_size}; give 1 or more")
    # Only here: transformers takes seconds to import and torch may not be installed.
    from preprocess.captioning.backend import open_model_captions

    return open_model_captions(settings, frames_per_second)


def as_stages(captions: CaptionBackend) -> tuple[Stage, tuple[Stage, ...]]:
    """The stage that looks at a segment's panoramas, and what is left to do when these are gone."""
    own = getattr(captions, "stages", None)
    if own is not None:
        return own()
    return each("captions", lambda work: replace(work, caption=captions(there(work.segment), work.tracks))), ()


def caption_sources(captions: CaptionBackend) -> dict[str, str]:
    """What a dataset's manifest says about the models of a backend; nothing for those without models."""
    return getattr(captions, "sources", {})
