"""Silent and black clips: a faulty target is left out together with its generated clip, a faulty generated clip counts.

A model must not gain by clips that show or sound nothing. Features of silence and of black video are defined, so such
generated clips are scored like all others, and their shares are metrics of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax.config.settings import Config
from con360av_jax.errors import MediaError, MetricError
from con360av_jax.evaluate.extraction import Pair
from con360av_jax.evaluate.feature_metrics import ALL_EXCLUDED, Found, mean_metric
from con360av_jax.evaluate.metrics.bootstrap import DRAWS
from con360av_jax.evaluate.results import Exclusion, Metric
from con360av_jax.evaluate.selection import EvaluatedClip
from con360av_jax.media.files import read_audio, read_frames

SILENCE = -80.0
"""Mean power below which audio counts as silent, dBFS, as in preprocessing."""
BLACK = 16
"""A clip whose values are all at or below this (of 255) counts as black."""

Side: TypeAlias = Literal["generated", "targets"]
Kind: TypeAlias = Literal["audio", "video"]
Video: TypeAlias = UInt8[np.ndarray, "frame height width 3"]
Audio: TypeAlias = Float32[np.ndarray, "sample"]

FAULTS: dict[str, tuple[Kind, str]] = {
    "silent": ("audio", "the target can be heard"),
    "black": ("video", "the target can be seen"),
}
"""Metrics of this module: the stream that has the fault, and the words for clips that should not have it."""


@dataclass(frozen=True)
class Faults:
    """Reasons by stream ("audio", "video") and clip; intact clips have none."""

    generated: Mapping[Kind, Mapping[str, str]]
    targets: Mapping[Kind, Mapping[str, str]]


def clip_audio(folder: Path, side: Side, clip: EvaluatedClip, config: Config) -> Audio:
    """Mono audio of a clip; raises MediaError if it cannot be read."""
    return read_audio(folder / side / f"{clip.clip}.mp4", config.mel.sample_rate).mean(axis=1)


def clip_video(folder: Path, side: Side, clip: EvaluatedClip, config: Config) -> Video:
    """All frames of a clip; raises MediaError if they cannot be read."""
    return read_frames(folder / side / f"{clip.clip}.mp4", config.clip.frames_per_second)


def find_faults(folder: Path, clips: Sequence[EvaluatedClip], config: Config) -> Faults:
    """Silent and black clips of both sides of an evaluation folder, and targets that cannot be read.

    Raises MetricError if a generated clip cannot be read, because it must not be left out.
    """
    kinds: tuple[Kind, Kind] = ("audio", "video")

    def reasons(side: Side) -> dict[Kind, dict[str, str]]:
        return {kind: _reasons(folder, side, kind, clips, config) for kind in kinds}

    return Faults(generated=reasons("generated"), targets=reasons("targets"))


def _reasons(folder: Path, side: Side, kind: Kind, clips: Sequence[EvaluatedClip], config: Config) -> dict[str, str]:
    found: dict[str, str] = {}
    for clip in clips:
        try:
            if kind == "audio":
                power = np.mean(np.square(clip_audio(folder, side, clip, config), dtype=np.float64))
                reason = "its audio is silent" if power < 10 ** (SILENCE / 10) else ""
            else:
                reason = "its video is black" if clip_video(folder, side, clip, config).max() <= BLACK else ""
        except MediaError as error:
            if side == "generated":
                raise MetricError(f"{error}; generated clips are never left out: delete it, evaluate again") from error
            reason = str(error).removeprefix(f"{folder / side / clip.clip}.mp4: ")
        if reason:
            found[clip.clip] = reason
    return found


def without_faulty_targets(features: Mapping[str, Pair], faults: Faults) -> dict[str, Pair]:
    """The features with faulty targets among the rejected clips, by the stream that a part was made from."""
    found = {}
    for part, (generated, target) in features.items():
        reasons = faults.targets["audio" if target.card.kind == "sound" else "video"]
        kept = tuple(clip for clip in target.clips if clip.clip not in reasons)
        gone = [clip for clip in target.clips if clip.clip in reasons]
        lines = ({"clip": clip.clip, "file": clip.file, "reason": reasons[clip.clip]} for clip in gone)
        found[part] = generated, replace(target, clips=kept, rejected=(*target.rejected, *lines))
    return found


def fault_metrics(faults: Faults, clips: Sequence[str], seed: int = 0, draws: int = DRAWS) -> Found:
    """Shares of silent and of black generated clips, among clips whose target has no such fault."""
    found = Found()
    for name, (kind, should) in FAULTS.items():
        metric = Metric(name=name, title=f"share of {name} clips", unit="", lower_is_better=True, value=None)
        reasons = faults.targets[kind]
        found.exclusions += [
            Exclusion(clip=clip, metric=name, reason=f"target: {reasons[clip]}") for clip in clips if clip in reasons
        ]
        judged = tuple(clip for clip in clips if clip not in reasons)
        if not judged:
            found.metrics.append(replace(metric, note=ALL_EXCLUDED))
            continue
        values = np.array([float(clip in faults.generated[kind]) for clip in judged])
        found.score(name, dict(zip(judged, values.tolist(), strict=True)))
        note = f"{values.sum():.0f} of {len(judged)} generated clips, where {should}"
        metric = replace(metric, clips=len(judged), rows=len(judged), note=note)
        found.metrics.append(mean_metric(metric, judged, values, np.ones(len(judged)), seed, draws))
    return found
