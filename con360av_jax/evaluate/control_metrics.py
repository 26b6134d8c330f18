"""Metrics of control: agreement of audio and video, and whether the requested object is visible, in place and audible.

av_align         agreement of audio onsets and motion peaks (metrics/av_align.py)
and for procedural scenes, whose ground truth is known (scenes/ground_truth.py), about the object nearest to the
centre of the viewpoint (the requested object):
share_in_view    share of clips in which that object is found in at least half of the frames (scenes/sighting.py)
direction_error  angle between its found and its true direction, mean over a clip's frames, mean over clips
class_agreement  share of clips whose audio is classified as its class (metrics/audio_class.py)

Each metric is also computed for the targets, where a difference from a perfect value is the error of the method. One
clip is in memory at a time; excluded clips are listed with reasons.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax.config.settings import Config
from con360av_jax.errors import MediaError
from con360av_jax.evaluate.feature_metrics import ALL_EXCLUDED, mean_metric
from con360av_jax.evaluate.features import open_features
from con360av_jax.evaluate.metrics.audio_class import FEWEST_SCENES, AudioClassifier, RowsByClip
from con360av_jax.evaluate.metrics.av_align import av_align, direction_error
from con360av_jax.evaluate.metrics.bootstrap import DRAWS
from con360av_jax.evaluate.results import Exclusion, Metric
from con360av_jax.evaluate.selection import EvaluatedClip, read_clips
from con360av_jax.media.files import read_audio, read_frames
from con360av_jax.media.mel import log_mel
from con360av_jax.scenes.ground_truth import SceneClip, scene_clip
from con360av_jax.scenes.sighting import find_object

SIDES = ("generated", "targets")
FRAMES = 8
"""Number of evenly spaced frames of a clip in which the object is searched."""
LEAST_SEEN = 0.5
"""Share of these frames in which the object must be found to count as in view."""
SILENCE = -80.0
"""Mean power below which audio counts as silent, dBFS, as in preprocessing."""
BLACK = 16
"""A clip whose values are all at or below this (of 255) counts as black."""

Answer: TypeAlias = float | str
"""Value of a metric for one clip, or the reason why there is none."""
Scenes: TypeAlias = Mapping[str, SceneClip | None]
Video: TypeAlias = UInt8[np.ndarray, "frame height width 3"]

_higher = partial(Metric, unit="", lower_is_better=False, value=None)
_AV_ALIGN = _higher(name="av_align", title="AV-Align (log-mel onsets, Farnebäck flow)")
_IN_VIEW = _higher(name="share_in_view", title="clips with the asked-for object in view")
_ERROR = Metric(
    name="direction_error",
    title="direction of the asked-for object",
    unit="degrees",
    lower_is_better=True,
    value=None,
    note="only of clips in which it is seen, see share_in_view",
)
_AGREEMENT = _higher(name="class_agreement", title="class heard against class seen (YAMNet)")
_NO_TRUTH = "there is no truth of its scene"
_NO_OBJECT = "no object is in view in the middle frame"


@dataclass
class Found:
    """Values of one metric by side and clip, and reasons by clip and side where there is none."""

    metric: Metric
    values: dict[str, dict[str, float]] = field(default_factory=lambda: {side: {} for side in SIDES})
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, clip: str, side: str, answer: Answer) -> None:
        """Records a value, or the reason why there is none."""
        if isinstance(answer, str):
            self.reasons.setdefault(clip, {})[side.removesuffix("s")] = answer
        else:
            self.values[side][clip] = answer

    def exclusions(self) -> list[Exclusion]:
        """One exclusion for each clip without a value on a side."""
        told = {
            clip: sides["generated"]
            if len(sides) == 2 and len(set(sides.values())) == 1
            else "; ".join(f"{side}: {reason}" for side, reason in sides.items())
            for clip, sides in self.reasons.items()
        }
        return [Exclusion(clip=clip, metric=self.metric.name, reason=reason) for clip, reason in told.items()]

    def finished(self) -> Metric:
        """The metric with the mean over generated clips, its interval, and the targets' mean."""
        generated, targets = (np.array(list(self.values[side].values())) for side in SIDES)
        metric = replace(self.metric, clips=len(generated), rows=len(generated))
        if len(targets):
            metric = replace(metric, target=float(targets.mean()))
        if len(generated):
            names = tuple(self.values["generated"])
            return mean_metric(metric, names, generated, np.ones(len(generated)), seed=0, draws=DRAWS)
        return replace(metric, note="; ".join(filter(None, [metric.note, ALL_EXCLUDED])))


def control_metrics(
    folder: Path, truth: Path | None, config: Config
) -> tuple[list[Metric], dict[str, dict[str, float]], list[Exclusion]]:
    """Metrics of an evaluation folder, values of its generated clips by clip and metric, and exclusions.

    Args:
        folder: folder with clips.jsonl, the clips of both sides and, if extracted, their features.
        truth: folder of the procedural scenes that the dataset was made from; None computes only av_align.
        config: config of the clips.

    Metrics without ground truth or features are absent. Raises MetricError if clips.jsonl, features or ground truth
    are corrupt.
    """
    clips = read_clips(folder)
    found = [_alignments(folder, clips, config)]
    if truth is not None:
        scenes = {
            clip.clip: scene_clip(truth, clip.key, clip.start, np.array(clip.viewpoint), config.clip.frames_per_second)
            for clip in clips
        }
        if saliency := _features(folder, "saliency"):
            found += _sightings(folder, clips, scenes, saliency, config)
        if classes := _features(folder, "classes"):
            found.append(_agreements(clips, scenes, classes))
    scores: dict[str, dict[str, float]] = {}
    for one in found:
        for clip, value in one.values["generated"].items():
            scores.setdefault(clip, {})[one.metric.name] = value
    return [one.finished() for one in found], scores, [left for one in found for left in one.exclusions()]


def _features(folder: Path, part: str) -> dict[str, RowsByClip] | None:
    """Features of a part on both sides, or None if it was not extracted."""
    folders = {side: folder / "features" / side / part for side in SIDES}
    if not all(path.is_dir() for path in folders.values()):
        return None
    return {side: RowsByClip.of(open_features(path)) for side, path in folders.items()}


def _read_video(folder: Path, side: str, clip: EvaluatedClip, config: Config) -> Video | str:
    """All frames of a clip, or the reason why they cannot be used."""
    path = folder / side / f"{clip.clip}.mp4"
    try:
        video = read_frames(path, config.clip.frames_per_second)
    except MediaError as error:
        return str(error).removeprefix(f"{path}: ")
    return "its pictures are black" if video.max() <= BLACK else video


def _read_audio(folder: Path, side: str, clip: EvaluatedClip, config: Config) -> Float32[np.ndarray, "sample"] | str:
    path = folder / side / f"{clip.clip}.mp4"
    try:
        audio = read_audio(path, config.mel.sample_rate).mean(axis=1)
    except MediaError as error:
        return str(error).removeprefix(f"{path}: ")
    power = float(np.mean(np.square(audio, dtype=np.float64)))
    return "its sound is silent" if power < 10 ** (SILENCE / 10) else audio


def _alignments(folder: Path, clips: Sequence[EvaluatedClip], config: Config) -> Found:
    found = Found(_AV_ALIGN)
    for clip in clips:
        for side in SIDES:
            found.add(clip.clip, side, _alignment(folder, side, clip, config))
    return found


def _alignment(folder: Path, side: str, clip: EvaluatedClip, config: Config) -> Answer:
    audio = _read_audio(folder, side, clip, config)
    video = audio if isinstance(audio, str) else _read_video(folder, side, clip, config)
    if isinstance(audio, str) or isinstance(video, str):
        return str(video)
    score = av_align(video, config.clip.frames_per_second, log_mel(audio, config.mel), config.mel)
    return "neither an onset nor a peak of motion" if score is None else score


def _sightings(
    folder: Path, clips: Sequence[EvaluatedClip], scenes: Scenes, saliency: Mapping[str, RowsByClip], config: Config
) -> list[Found]:
    """The metrics share_in_view and direction_error."""
    in_view, errors = Found(_IN_VIEW), Found(_ERROR)
    for clip in clips:
        for side in SIDES:
            seen = _sighting(folder, side, clip, scenes[clip.clip], saliency[side], config)
            share, error = (seen, seen) if isinstance(seen, str) else seen
            in_view.add(clip.clip, side, share)
            errors.add(clip.clip, side, error)
    return [in_view, errors]


def _sighting(
    folder: Path, side: str, clip: EvaluatedClip, scene: SceneClip | None, saliency: RowsByClip, config: Config
) -> tuple[float, Answer] | str:
    """Whether the object is in view (0 or 1) and its direction error, or the reason why neither is known."""
    if scene is None or scene.requested is None:
        return _NO_TRUTH if scene is None else _NO_OBJECT
    if clip.clip not in saliency:
        return f"no saliency: {saliency.reason(clip.clip)}"
    video, maps, wanted = _read_video(folder, side, clip, config), saliency[clip.clip], scene.requested
    if isinstance(video, str):
        return video
    if not len(video) == len(maps) == len(clip.viewpoint):
        return f"{len(video)} pictures, {len(maps)} saliency maps, {len(clip.viewpoint)} viewpoints"
    visible = np.flatnonzero(wanted.in_view)
    frames = visible[np.unique(np.linspace(0, len(visible) - 1, FRAMES).round().astype(int))]
    sightings = [
        find_object(video[k], maps[k], np.array(clip.viewpoint[k]), wanted.name, float(wanted.radii[k]), scene.place)
        for k in frames
    ]
    pairs = [(found.direction, wanted.directions[k]) for found, k in zip(sightings, frames, strict=True) if found.seen]
    if len(pairs) < LEAST_SEEN * len(frames):
        return 0.0, "the asked-for object is not seen"
    seen, true = map(np.stack, zip(*pairs, strict=True))
    return 1.0, float(direction_error(seen, true).mean())


def _agreements(clips: Sequence[EvaluatedClip], scenes: Scenes, classes: Mapping[str, RowsByClip]) -> Found:
    known = {clip.clip: scene for clip in clips if (scene := scenes[clip.clip]) and clip.clip in classes["targets"]}
    fitted = AudioClassifier.fit(
        classes["targets"], [(clip, scene.scene, scene.loudest) for clip, scene in known.items()]
    )
    names = fitted.classes
    found = Found(_AGREEMENT)
    for clip in clips:
        for side in SIDES:
            found.add(clip.clip, side, _agreement(clip.clip, scenes[clip.clip], classes[side], fitted))
    requested = Counter(
        scene.loudest for clip, scene in known.items() if scene.requested and clip in found.values["targets"]
    )
    chance = (
        f"{len(names)} classes ({', '.join(names)}), chance {1 / len(names):.2f}, always the most frequent one "
        f"{max(requested.values(), default=0) / max(1, requested.total()):.2f}"
        if len(names) > 1
        else f"fewer than two classes have target clips of {FEWEST_SCENES} scenes in which they are the loudest"
    )
    found.metric = replace(_AGREEMENT, note=chance)
    return found


def _agreement(clip: str, scene: SceneClip | None, classes: RowsByClip, fitted: AudioClassifier) -> Answer:
    if scene is None or scene.requested is None:
        return _NO_TRUTH if scene is None else _NO_OBJECT
    name = scene.requested.name
    if scene.loudest != name:
        return "another object than that in view is the loudest"
    if len(fitted.classes) < 2 or name not in fitted.classes:
        return f"too few target clips of class {name}" if len(fitted.classes) > 1 else "too few target clips"
    if clip not in classes:
        return f"no sound: {classes.reason(clip)}"
    return float(fitted.predict(classes[clip], scene.scene) == name)
