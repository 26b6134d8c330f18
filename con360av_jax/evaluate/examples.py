"""Clips shown on pages: selection of the worst and best, links to videos, saliency stills, mel spectrograms."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax.config.settings import MelConfig
from con360av_jax.errors import MediaError, MetricError
from con360av_jax.evaluate.features import open_features
from con360av_jax.evaluate.results import ClipScores, Metric, Results
from con360av_jax.media.files import probe, read_audio, read_frames
from con360av_jax.media.mel import log_mel
from con360av_jax.pages.figures import image_uri, mel_image, saliency_overlay
from con360av_jax.sphere.geometry import minmax

WORST, BEST = 12, 6
SIDES = ("generated", "target")
FOLDERS = {"generated": "generated", "target": "targets"}
"""Folder of each side's features in EVALUATION/features."""
_STILL, _MEL = (176, 176), (200, 64)
"""Largest width and height of images, pixels, which limits the size of the page."""
_FLOOR, _CEILING = 2.0, 99.8
"""Percentiles of the mel values that are shown black and brightest."""

Maps = Mapping[str, Float32[np.ndarray, "frame row column"]]


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video of an example; `problems` says what is missing or corrupt."""

    name: str
    """Label: "generated", "target", or the name of an evaluation."""
    file: str
    href: str
    """Address relative to the page; "" if the file is missing."""
    still: str = ""
    """Middle frame with its saliency, as a data URI."""
    mel: str = ""
    """Mel spectrogram, as a data URI."""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """All clips ordered by one metric, worst first; clips without a score come last."""

    metric: Metric | None
    """The ranking metric; None if no metric scores clips, which keeps the order of the results."""
    clips: tuple[ClipScores, ...]

    def chosen(self) -> tuple[tuple[ClipScores, ...], tuple[ClipScores, ...]]:
        """The WORST worst clips, and the BEST best of the remaining ones, best first."""
        if self.metric is None:
            return self.clips[: WORST + BEST], ()
        name = self.metric.name
        scored = tuple(clip for clip in self.clips if name in clip.scores)
        return scored[:WORST], scored[max(WORST, len(scored) - BEST) :][::-1]


def ranked(results: Results) -> Ranking:
    """Ranking of the clips by S_KL, or without it by the first metric that scores clips."""
    metrics = sorted(results.metrics, key=lambda metric: metric.name != "s_kl")
    spoken = {name for clip in results.clips for name in clip.scores}
    metric = next((metric for metric in metrics if metric.name in spoken), None)
    if metric is None:
        return Ranking(metric=None, clips=results.clips)
    name, sign = metric.name, -1.0 if metric.lower_is_better else 1.0
    order = sorted(results.clips, key=lambda clip: sign * clip.scores[name] if name in clip.scores else math.inf)
    return Ranking(metric=metric, clips=tuple(order))


def open_maps(folder: Path, expected: bool) -> tuple[dict[str, Maps], str]:
    """Saliency maps by side and clip, read on access; or none and, if `expected`, the reason."""
    found: dict[str, Maps] = {}
    for side, place in FOLDERS.items():
        try:
            features = open_features(folder / "features" / place / "saliency", read_all=False)
        except MetricError as error:
            return {}, f"No saliency is shown: {error}." if expected else ""
        found[side] = {rows.clip: maps for rows, maps in zip(features.clips, features, strict=True)}
    return found, ""


def link(file: Path, page: Path) -> str:
    """Relative, quoted address of `file` on `page`; "" if there is no such file."""
    return quote(Path(os.path.relpath(file, page.parent)).as_posix()) if file.is_file() else ""


def example(clip: ClipScores, folder: Path, page: Path, maps: Mapping[str, Maps]) -> tuple[Video, ...]:
    """Both videos of a clip, each with the saliency of its middle frame and its mel spectrogram."""
    files = {"generated": clip.generated, "target": clip.target}
    mels: dict[str, np.ndarray] = {}
    stills: dict[str, str] = {}
    problems: dict[str, list[str]] = {side: [] for side in SIDES}
    for side, file in files.items():
        path = folder / file
        if not path.is_file():
            problems[side].append(f"{file} is missing")
            continue
        try:
            if clip.clip in maps.get(side, {}):
                stills[side] = _still(path, maps[side][clip.clip])
            mels[side] = clip_mel(path)
        except MediaError as error:
            problems[side].append(str(error))
    images = mel_images(mels)
    return tuple(
        Video(
            name=side,
            file=file,
            href=link(folder / file, page),
            still=stills.get(side, ""),
            mel=images.get(side, ""),
            problems=tuple(problems[side]),
        )
        for side, file in files.items()
    )


def videos_of(clips: Sequence[tuple[str, ClipScores, Path]], page: Path) -> tuple[Video, ...]:
    """Target video of a clip, then the generated video of each evaluation, given as (name, clip, folder)."""
    _, first, folder = clips[0]
    wanted = [("target", first.target, folder), *((name, clip.generated, where) for name, clip, where in clips)]
    return tuple(
        Video(
            name=name,
            file=file,
            href=(href := link(where / file, page)),
            problems=() if href else (f"{where / file} is missing",),
        )
        for name, file, where in wanted
    )


def angles(clip: ClipScores) -> tuple[float, float, float]:
    """Yaw, pitch and horizontal field of view, degrees."""
    yaw, pitch, width = (math.degrees(angle) for angle in clip.viewpoint[:3])
    return yaw, pitch, width


def _still(path: Path, maps: Float32[np.ndarray, "frame row column"]) -> str:
    middle, rate = len(maps) // 2, probe(path).frames_per_second
    if not rate:
        raise MediaError(f"{path}: has no pictures")
    frame = read_frames(path, rate, start=middle / rate, seconds=1 / rate)[0]
    return image_uri(saliency_overlay(_at_most(frame, _STILL), minmax(maps[middle])))


def _at_most(picture: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "row column 3"]:
    height, width = picture.shape[:2]
    return cv2.resize(picture, (min(width, size[0]), min(height, size[1])), interpolation=cv2.INTER_AREA)


def clip_mel(path: Path) -> Float32[np.ndarray, "time mel"]:
    """Log-mel spectrogram of a clip's first channel; raises MediaError if it cannot be read."""
    config = MelConfig()
    return log_mel(read_audio(path, config.sample_rate)[:, 0], config)


def mel_images(mels: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Mel spectrograms in one colour scale, as data URIs."""
    if not mels:
        return {}
    pictures = mel_pictures(mels)
    return {side: image_uri(_at_most(picture, _MEL)) for side, picture in pictures.items()}


def mel_pictures(mels: Mapping[str, np.ndarray]) -> dict[str, UInt8[np.ndarray, "height width 3"]]:
    """Mel spectrograms in one colour scale, as pixels."""
    low, high = np.percentile(np.concatenate([mel.ravel() for mel in mels.values()]), (_FLOOR, _CEILING))
    return {side: mel_image(mel, float(low), float(high)) for side, mel in mels.items()}
