"""Feature extraction without networks, for tests of all around it: features that depend on each clip's content."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from con360av_jax.evaluate import extraction
from con360av_jax.evaluate.features import FeatureCard, write_features
from con360av_jax.evaluate.protocols import Protocol, parts
from con360av_jax.media.files import read_audio, read_frames

KINDS = {"saliency": "saliency", "sound": "sound", "classes": "sound"}


def card(part: str, **settings: object) -> FeatureCard:
    kind = KINDS.get(part, "video")
    return FeatureCard(kind=kind, model=f"stand-in {part}", weights_sha256="0", settings=settings, packages={})


def features_of(video: Path, part: str) -> np.ndarray:
    """A few numbers of the picture or the sound; saliency is the picture's green channel, made small."""
    if part == "saliency":
        return read_frames(video, 4)[:, ::4, ::4, 1].astype(np.float32) + 1
    if part.startswith("video"):
        return read_frames(video, 4).mean(axis=(1, 2)).reshape(1, -1)[:, :6].astype(np.float32)
    sound = read_audio(video, 16_000, seconds=1.0)[:, 0].reshape(4, -1)
    return np.abs(np.fft.rfft(sound))[:, 1:9].astype(np.float32)


class Extractor:
    """Takes the place of `extraction.run_extractor`; targets in `rejected` have no features of audio."""

    def __init__(self, rejected: Mapping[str, str] | None = None):
        self.calls: list[str] = []
        self.rejected = dict(rejected or {})

    def __call__(
        self, videos: Path, features: Path, side: str, protocol: Protocol, made: extraction.Extraction
    ) -> None:
        self.calls.append(side)
        rejected = [{"clip": name, "file": name, "reason": reason} for name, reason in self.rejected.items()]
        for part in parts(protocol):
            left_out = rejected if part != "saliency" and side == "target" else []
            if (features / part).exists():
                continue
            write_features(
                features / part,
                card(part),
                (
                    (video.stem, video.name, features_of(video, part))
                    for video in sorted(videos.glob("*.mp4"))
                    if not left_out or video.stem not in self.rejected
                ),
                left_out,
            )


def results_json(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())
