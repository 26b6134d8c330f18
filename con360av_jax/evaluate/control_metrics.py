"""Whether control works: do sound and picture agree, is what was asked for seen where it should be, and heard.

av_align         how onsets of sound and peaks of motion agree (av_align.py)
and of procedural scenes, whose truth is known (truth.py), about the object nearest to the viewpoint's centre:
share_in_view    share of clips in at least half of whose frames that object is seen (sighting.py)
direction_error  angle between where it is seen and where it truly is: mean over a clip's frames, mean over clips
class_agreement  share of clips that sound like it (heard.py)

Each is also computed of the targets: what is missing from a perfect value there is the method's, not the model's. A
clip is in memory alone; what a metric leaves out is named.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8

from con360av_jax.config.settings import Config
from con360av_jax.errors import MediaError
from con360av_jax.evaluate.features import open_features
from con360av_jax.evaluate.metrics.audio_class import FEWEST_SCENES, HeardClasses, Rows
from con360av_jax.evaluate.metrics.av_align import av_align, direction_error
from con360av_jax.evaluate.metrics.bootstrap import bootstrap_mean
from con360av_jax.evaluate.results import Exclusion, Metric
from con360av_jax.evaluate.selection import EvaluatedClip, read_clips
from con360av_jax.media.files import read_frames, read_sound
from con360av_jax.media.mel import log_mel
from con360av_jax.scenes.ground_truth import SceneClip, scene_clip
from con360av_jax.scenes.sighting import find_object

SIDES = ("generated", "targets")
FRAMES = 8
"""Of a clip, evenly spaced, in which its object is looked for."""
LEAST_SEEN = 0.5
"""Share of a clip's frames in which its object must be seen to be in view."""
SILENCE = -80.0
"""Mean power below which a sound is silent, dBFS, as in preprocessing."""
BLACK = 16
"""A clip without a value above is black, of 255."""

Answer: TypeAlias = float | str
"""A metric's value of one clip, or why it has none."""
Scenes: TypeAlias = Mapping[str, SceneClip | None]
Pictures: TypeAlias = UInt8[np.ndarray, "frame height width 3"]

_AV_ALIGN = Metric(
    name="av_align", title="AV-Align (log-mel onsets, Farnebäck flow)", unit="", lower_is_better=False, value=None
)
_IN_VIEW = Metric(
    name="share_in_view", title="clips with the asked-for object in view", unit="", lower_is_better=False, value=None
)
_ERROR = Metric(
    name="direction_error",
    title="direction of the asked-for object",
    unit="degrees",
    lower_is_better=True,
    value=None,
    note="only of clips in which it is seen, see share_in_view",
)
_AGREEMENT = Metric(
    name="class_agreement", title="class heard against class seen (YAMNet)", unit="", lower_is_better=False, value=None
)
_NO_TRUTH = "there is no truth of its scene"
_NO_OBJECT = "no object is in view in the middle frame"


@dataclass
class Found:
    """Of one metric: values by side and clip, and by clip and side why there is none."""

    metric: Metric
    values: dict[str, dict[str, float]] = field(default_factory=lambda: {side: {} for side in SIDES})
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, clip: str, side: str, answer: Answer) -> None:
        """Keeps a value or a reason."""
        if isinstance(answer, str):
            self.reasons.setdefault(clip, {})[side.removesuffix("s")] = answer
        else:
            self.values[side][clip] = answer

    def exclusions(self) -> list[Exclusion]:
        """One for each clip that lacks a value on a side."""
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
        notes = [self.metric.note] if self.metric.note else []
        metric = replace(self.metric, clips=len(generated), rows=len(generated))
        if len(targets):
            metric = replace(metric, target=float(targets.mean()))
        if len(generated) > 1:
            interval = bootstrap_mean(generated, np.ones(len(generated)), seed=0)
            return replace(metric, value=interval.value, low=interval.low, high=interval.high)
        if len(generated):
            return replace(metric, value=float(generated[0]), note="; ".join([*notes, "one clip has no interval"]))
        return replace(metric, note="; ".join([*notes, "every clip is excluded"]))


def control_metrics(
    folder: Path, truth: Path | None, config: Config
) -> tuple[list[Metric], dict[str, dict[str, float]], list[Exclusion]]:
    """Metrics of an evaluation folder, values of its generated clips by clip and metric, and what is left out.

    Args:
        folder: with clips.jsonl, the clips of both sides and, as far as there are, features.
        truth: folder of the procedural scenes that the dataset was made of; None: only av_align.
        config: of the clips.

    A metric whose truth or features are absent is not in the list. Raises MetricError if clips.jsonl, features or truth
    are damaged.
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


def _features(folder: Path, part: str) -> dict[str, Rows] | None:
    """Both sides' features of a part, if it was extracted."""
    folders = {side: folder / "features" / side / part for side in SIDES}
    if not all(path.is_dir() for path in folders.values()):
        return None
    return {side: Rows.of(open_features(path)) for side, path in folders.items()}


def _pictures(folder: Path, side: str, clip: EvaluatedClip, config: Config) -> Pictures | str:
    """All frames of a clip, or why they cannot be used."""
    path = folder / side / f"{clip.clip}.mp4"
    try:
        pictures = read_frames(path, config.clip.frames_per_second)
    except MediaError as error:
        return str(error).removeprefix(f"{path}: ")
    return "its pictures are black" if pictures.max() <= BLACK else pictures


def _sound(folder: Path, side: str, clip: EvaluatedClip, config: Config) -> Float32[np.ndarray, "sample"] | str:
    path = folder / side / f"{clip.clip}.mp4"
    try:
        sound = read_sound(path, config.mel.sample_rate).mean(axis=1)
    except MediaError as error:
        return str(error).removeprefix(f"{path}: ")
    power = float(np.mean(np.square(sound, dtype=np.float64)))
    return "its sound is silent" if power < 10 ** (SILENCE / 10) else sound


def _alignments(folder: Path, clips: Sequence[EvaluatedClip], config: Config) -> Found:
    found = Found(_AV_ALIGN)
    for clip in clips:
        for side in SIDES:
            found.add(clip.clip, side, _alignment(folder, side, clip, config))
    return found


def _alignment(folder: Path, side: str, clip: EvaluatedClip, config: Config) -> Answer:
    sound = _sound(folder, side, clip, config)
    pictures = sound if isinstance(sound, str) else _pictures(folder, side, clip, config)
    if isinstance(sound, str) or isinstance(pictures, str):
        return str(pictures)
    score = av_align(pictures, config.clip.frames_per_second, log_mel(sound, config.mel), config.mel).score
    return "neither an onset nor a peak of motion" if score is None else score


def _sightings(
    folder: Path, clips: Sequence[EvaluatedClip], scenes: Scenes, saliency: Mapping[str, Rows], config: Config
) -> list[Found]:
    """share_in_view and direction_error."""
    in_view, errors = Found(_IN_VIEW), Found(_ERROR)
    for clip in clips:
        for side in SIDES:
            seen = _sighting(folder, side, clip, scenes[clip.clip], saliency[side], config)
            share, error = (seen, seen) if isinstance(seen, str) else seen
            in_view.add(clip.clip, side, share)
            errors.add(clip.clip, side, error)
    return [in_view, errors]


def _sighting(
    folder: Path, side: str, clip: EvaluatedClip, scene: SceneClip | None, saliency: Rows, config: Config
) -> tuple[float, Answer] | str:
    """Whether the object is in view, 0 or 1, and how far from its place; or why neither can be told."""
    if scene is None or scene.asked_for is None:
        return _NO_TRUTH if scene is None else _NO_OBJECT
    if clip.clip not in saliency:
        return f"no saliency: {saliency.reason(clip.clip)}"
    pictures, maps, asked = _pictures(folder, side, clip, config), saliency[clip.clip], scene.asked_for
    if isinstance(pictures, str):
        return pictures
    if not len(pictures) == len(maps) == len(clip.viewpoint):
        return f"{len(pictures)} pictures, {len(maps)} saliency maps, {len(clip.viewpoint)} viewpoints"
    visible = np.flatnonzero(asked.in_view)
    frames = visible[np.unique(np.linspace(0, len(visible) - 1, FRAMES).round().astype(int))]
    sightings = [
        find_object(pictures[k], maps[k], np.array(clip.viewpoint[k]), asked.name, float(asked.radii[k]), scene.place)
        for k in frames
    ]
    pairs = [(found.direction, asked.directions[k]) for found, k in zip(sightings, frames, strict=True) if found.seen]
    if len(pairs) < LEAST_SEEN * len(frames):
        return 0.0, "the asked-for object is not seen"
    seen, true = map(np.stack, zip(*pairs, strict=True))
    return 1.0, float(direction_error(seen, true).mean())


def _agreements(clips: Sequence[EvaluatedClip], scenes: Scenes, classes: Mapping[str, Rows]) -> Found:
    known = {clip.clip: scene for clip in clips if (scene := scenes[clip.clip]) and clip.clip in classes["targets"]}
    fitted = HeardClasses.of(classes["targets"], [(clip, scene.scene, scene.loudest) for clip, scene in known.items()])
    names = fitted.classes
    found = Found(_AGREEMENT)
    for clip in clips:
        for side in SIDES:
            found.add(clip.clip, side, _agreement(clip.clip, scenes[clip.clip], classes[side], fitted))
    asked = Counter(
        scene.loudest for clip, scene in known.items() if scene.asked_for and clip in found.values["targets"]
    )
    chance = (
        f"{len(names)} classes ({', '.join(names)}), chance {1 / len(names):.2f}, always the most frequent one "
        f"{max(asked.values(), default=0) / max(1, asked.total()):.2f}"
        if len(names) > 1
        else f"fewer than two classes have target clips of {FEWEST_SCENES} scenes in which they are the loudest"
    )
    found.metric = replace(_AGREEMENT, note=chance)
    return found


def _agreement(clip: str, scene: SceneClip | None, classes: Rows, fitted: HeardClasses) -> Answer:
    if scene is None or scene.asked_for is None:
        return _NO_TRUTH if scene is None else _NO_OBJECT
    name = scene.asked_for.name
    if scene.loudest != name:
        return "another object than that in view is the loudest"
    if len(fitted.classes) < 2 or name not in fitted.classes:
        return f"too few target clips of class {name}" if len(fitted.classes) > 1 else "too few target clips"
    if clip not in classes:
        return f"no sound: {classes.reason(clip)}"
    return float(fitted.heard(classes[clip], scene.scene) == name)
