"""Judgements of clips by the judges of protocol `scenes`, as feature folders (features.py).

view          one row per frame: logits of classes in view, their positions, logits of envelopes and of places
sounds        one row per STEP mel frames: scores of classes heard, logits of envelopes
video_judge   one row per clip: features of the video judge (models/judge.py, equation 8)
audio_judge   one row per clip: features of the audio judge
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from rich.console import Console

from con360av_jax.base.codecs import in_batches
from con360av_jax.base.networks import pixels
from con360av_jax.config.settings import Config
from con360av_jax.errors import MediaError, MetricError
from con360av_jax.evaluate.features import CARD, FeatureCard, open_features, write_features
from con360av_jax.evaluate.judges import Judge
from con360av_jax.evaluate.selection import EvaluatedClip
from con360av_jax.media.files import read_audio, read_frames
from con360av_jax.media.mel import log_mel
from con360av_jax.models.judge import STEP, clip_features, heard_logits
from con360av_jax.runtime.provenance import versions
from con360av_jax.scenes.scene import CLASSES

PARTS = {"view": "judge_video", "video_judge": "judge_video", "sounds": "judge_audio", "audio_judge": "judge_audio"}
"""Feature set -> the judge that makes it."""
_KINDS = {"judge_video": "video", "judge_audio": "sound"}
_FRAMES_AT_ONCE = 16
_PACKAGES = ("con360av-jax", "jax", "numpy", "av")

Rows = Float32[np.ndarray, "row column"]


class View(NamedTuple):
    """Judgement of the frames of a clip."""

    in_view: Float[np.ndarray, "frame class"]
    """Probabilities."""
    position: Float[np.ndarray, "frame class 2"]
    envelope: Float[np.ndarray, "frame class"]
    """Values from 0 to 1."""
    place: Float[np.ndarray, "frame place"]
    """Log-probabilities."""


class Sounds(NamedTuple):
    """Judgement of the audio of a clip."""

    heard: Float[np.ndarray, "class"]
    """Probabilities."""
    envelope: Float[np.ndarray, "time class"]
    """Values from 0 to 1 at multiples of STEP mel frames."""


def judge_frames(judge: Judge, frames: UInt8[np.ndarray, "frame height width 3"]) -> tuple[Rows, Rows]:
    """Rows of "view" and of "video_judge"."""
    seen = [judge.apply(judge.params, pixels(batch)) for batch in in_batches(frames, _FRAMES_AT_ONCE)]
    stacked = [np.concatenate([np.asarray(part) for part in parts])[: len(frames)] for parts in zip(*seen, strict=True)]
    in_view, _, position, envelope, place, features = stacked
    rows = [in_view, rearrange(position, "frame name side -> frame (name side)"), envelope, place]
    return np.concatenate(rows, axis=1).astype(np.float32), clip_features(features)[None]


def judge_mel(judge: Judge, mel: Float32[np.ndarray, "time band"]) -> tuple[Rows, Rows]:
    """Rows of "sounds" and of "audio_judge"."""
    heard = judge.apply(judge.params, mel[None])
    scores, envelope, features = (np.asarray(part)[0] for part in heard)
    return np.concatenate([scores, envelope], axis=1).astype(np.float32), clip_features(features)[None]


def view_of(rows: Float[np.ndarray, "frame column"]) -> View:
    """Judgement from the rows of "view"."""
    n = len(CLASSES)
    in_view, position, envelope, place = np.split(np.asarray(rows, np.float64), [n, 3 * n, 4 * n], axis=1)
    shifted = place - place.max(axis=1, keepdims=True)
    return View(
        in_view=_sigmoid(in_view),
        position=rearrange(position, "frame (name side) -> frame name side", side=2),
        envelope=_sigmoid(envelope),
        place=shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)),
    )


def sounds_of(rows: Float[np.ndarray, "time column"]) -> Sounds:
    """Judgement from the rows of "sounds"."""
    scores, envelope = np.split(np.asarray(rows, np.float64), 2, axis=1)
    return Sounds(
        heard=_sigmoid(np.asarray(heard_logits(jnp.asarray(scores, jnp.float32)))), envelope=_sigmoid(envelope)
    )


def judge_clips(
    folder: Path, side: str, clips: Sequence[EvaluatedClip], judges: Mapping[str, Judge], config: Config
) -> None:
    """Writes FOLDER/features/SIDE of one side's clips, unless they are there, complete and by the same judges.

    Raises MetricError if the audio judge was trained on other log-mels than the config's.
    """
    if judges["judge_audio"].card.mel != config.mel:
        raise MetricError("the audio judge was trained on other log-mels than these clips have: train it with this mel")
    features = folder / "features" / side
    if all(_fits(features / part, folder / side, clips, judges[name].sha256) for part, name in PARTS.items()):
        return
    rows: dict[str, list[tuple[str, str, Rows]]] = {part: [] for part in PARTS}
    rejected: dict[str, list[dict[str, object]]] = {name: [] for name in judges}
    with Console(stderr=True).status(f"judging {side} clips"):
        for clip in clips:
            file = f"{clip.clip}.mp4"
            for name, parts in (("judge_video", ("view", "video_judge")), ("judge_audio", ("sounds", "audio_judge"))):
                try:
                    made = _judged(judges[name], folder / side / file, config)
                except MediaError as error:
                    rejected[name].append({"clip": clip.clip, "file": file, "reason": str(error)})
                    continue
                for part, found in zip(parts, made, strict=True):
                    rows[part].append((clip.clip, file, found))
    for part, name in PARTS.items():
        shutil.rmtree(features / part, ignore_errors=True)
        if rows[part]:
            write_features(features / part, _card(part, judges[name]), rows[part], rejected[name])


def _judged(judge: Judge, path: Path, config: Config) -> tuple[Rows, Rows]:
    if judge.card.name == "judge_video":
        return judge_frames(judge, read_frames(path, config.clip.frames_per_second))
    return judge_mel(judge, log_mel(read_audio(path, config.mel.sample_rate).mean(axis=1), config.mel))


def _card(part: str, judge: Judge) -> FeatureCard:
    settings: dict[str, object] = {"rows": part, "origin": judge.card.origin}
    if judge.card.name == "judge_audio":
        settings |= {"step": STEP, "mel": asdict(judge.card.mel)}
    return FeatureCard(
        kind=_KINDS[judge.card.name],
        model=judge.card.name,
        weights_sha256=judge.sha256,
        settings=settings,
        packages=versions(_PACKAGES),
    )


def _fits(features: Path, videos: Path, clips: Sequence[EvaluatedClip], sha256: str) -> bool:
    """Whether a feature set has all clips, is newer than them, and is by this judge."""
    if not (features / CARD).is_file():
        return False
    found = open_features(features)
    known = {clip.clip for clip in found.clips} | {str(line.get("clip", "")) for line in found.rejected}
    made = (features / CARD).stat().st_mtime_ns
    return found.card.weights_sha256 == sha256 and all(
        clip.clip in known and (videos / f"{clip.clip}.mp4").stat().st_mtime_ns <= made for clip in clips
    )


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
