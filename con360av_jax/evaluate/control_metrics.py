"""Metrics of control: agreement of audio and video, and whether the requested object is visible, in place and audible.

av_align         agreement of audio onsets and motion peaks (metrics/av_align.py)
and for procedural scenes, whose ground truth is known (scenes/ground_truth.py), about the object nearest to the
centre of the viewpoint (the requested object):
share_in_view    share of clips in which that object is found in at least half of the frames (scenes/sighting.py)
direction_error  angle between its found and its true direction, mean over a clip's frames, mean over clips in which
                 it is seen
direction_error_all  the same over all clips, with 90 degrees where it is not seen, the mean over random directions
class_agreement  share of clips whose audio is classified as its class (metrics/audio_class.py)

Each metric is also computed for the targets, where a difference from a perfect value is the error of the method. One
clip is in memory at a time; clips whose target is silent, black or unusable are left out, with reasons. A generated
clip is never left out, except from direction_error: without onset and peak of motion its AV-Align is 0, and silence
agrees with no class.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32

from con360av_jax.config.settings import Config
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.faults import Faults, Side, Video, clip_audio, clip_video
from con360av_jax.evaluate.feature_metrics import Found
from con360av_jax.evaluate.measured import (
    NO_OBJECT,
    NO_TRUTH,
    SIDES,
    UNSEEN,
    Measured,
    features_by_clip,
    no_features,
    together,
)
from con360av_jax.evaluate.metrics.audio_class import FEWEST_SCENES, AudioClassifier, RowsByClip
from con360av_jax.evaluate.metrics.av_align import av_align, direction_error
from con360av_jax.evaluate.metrics.bootstrap import DRAWS
from con360av_jax.evaluate.results import Metric
from con360av_jax.evaluate.selection import EvaluatedClip, read_clips
from con360av_jax.media.mel import log_mel
from con360av_jax.scenes.ground_truth import RequestedObject, SceneClip, scene_clip
from con360av_jax.scenes.sighting import find_object

FRAMES = 8
"""Number of evenly spaced frames of a clip in which the object is searched."""
LEAST_SEEN = 0.5
"""Share of these frames in which the object must be found to count as in view."""

Scenes: TypeAlias = Mapping[str, SceneClip | None]
Maps: TypeAlias = Float32[np.ndarray, "frame row column"]

_higher = partial(Metric, unit="", lower_is_better=False, value=None)
_AV_ALIGN = _higher(name="av_align", title="AV-Align (log-mel onsets, Farnebäck flow)")
_IN_VIEW = _higher(name="share_in_view", title="clips with the asked-for object in view")
_ERROR = Metric(
    name="direction_error",
    title="direction of the asked-for object",
    unit="degrees",
    lower_is_better=True,
    value=None,
    note="only of clips in which it is seen",
)
_ERROR_ALL = replace(
    _ERROR,
    name="direction_error_all",
    title="direction of the asked-for object, all clips",
    note=f"{UNSEEN:g} degrees where it is not seen",
)
_AGREEMENT = _higher(name="class_agreement", title="class heard against class seen (YAMNet)")


def control_metrics(
    folder: Path, truth: Path | None, config: Config, faults: Faults, seed: int = 0, draws: int = DRAWS
) -> Found:
    """Metrics of an evaluation folder, scores of its generated clips, and exclusions.

    Args:
        folder: folder with clips.jsonl, the clips of both sides and, if extracted, their features.
        truth: folder of the procedural scenes that the dataset was made from; None computes only av_align.
        config: config of the clips.
        faults: faulty clips of the folder, as `find_faults` gives them.
        seed: seed of the bootstrap draws.
        draws: number of bootstrap draws of each interval.

    Metrics without ground truth or features are absent. Raises MetricError if clips.jsonl, features or ground truth
    are corrupt, or if a generated clip lacks features.
    """
    clips = read_clips(folder)
    found = [_alignments(folder, clips, config, faults)]
    if truth is not None:
        scenes = {
            clip.clip: scene_clip(truth, clip.key, clip.start, np.array(clip.viewpoint), config.clip.frames_per_second)
            for clip in clips
        }
        if saliency := features_by_clip(folder, "saliency", faults):
            found += _sightings(folder, clips, scenes, saliency, config)
        if classes := features_by_clip(folder, "classes", faults):
            found.append(_agreements(clips, scenes, classes, faults))
    return together(found, seed, draws)


def _alignments(folder: Path, clips: Sequence[EvaluatedClip], config: Config, faults: Faults) -> Measured:
    found = Measured(_AV_ALIGN)
    for clip in clips:
        faulty = faults.targets["audio"].get(clip.clip) or faults.targets["video"].get(clip.clip)
        wanted = None if faulty else _alignment(folder, "targets", clip, config)
        if wanted is None:
            found.leave_out(clip.clip, f"target: {faulty or 'neither an onset nor a peak of motion'}")
        else:
            found.values["targets"][clip.clip] = wanted
            found.values["generated"][clip.clip] = _alignment(folder, "generated", clip, config) or 0.0
    return found


def _alignment(folder: Path, side: Side, clip: EvaluatedClip, config: Config) -> float | None:
    video, audio = clip_video(folder, side, clip, config), clip_audio(folder, side, clip, config)
    return av_align(video, config.clip.frames_per_second, log_mel(audio, config.mel), config.mel)


def _sightings(
    folder: Path, clips: Sequence[EvaluatedClip], scenes: Scenes, saliency: Mapping[Side, RowsByClip], config: Config
) -> list[Measured]:
    """The metrics share_in_view, direction_error and direction_error_all."""
    in_view, errors, all_errors = found = [Measured(metric) for metric in (_IN_VIEW, _ERROR, _ERROR_ALL)]
    for clip in clips:
        scene = scenes[clip.clip]
        reason = NO_TRUTH if scene is None else no_features(clip.clip, saliency)
        if reason or scene is None or scene.requested is None:
            for one in found:
                one.leave_out(clip.clip, reason or NO_OBJECT)
            continue
        for side in SIDES:
            video, maps = clip_video(folder, side, clip, config), saliency[side][clip.clip]
            error = _direction_error(clip, video, maps, scene.requested, scene.place)
            in_view.values[side][clip.clip] = float(error is not None)
            all_errors.values[side][clip.clip] = UNSEEN if error is None else error
            if error is None:
                errors.leave_out(clip.clip, f"{side.removesuffix('s')}: the asked-for object is not seen")
            else:
                errors.values[side][clip.clip] = error
    return found


def _direction_error(
    clip: EvaluatedClip, video: Video, maps: Maps, wanted: RequestedObject, place: str
) -> float | None:
    """Mean direction error of the object where it is seen, degrees; None if it is seen in too few frames.

    Raises MetricError for different numbers of frames, maps and viewpoints.
    """
    if not len(video) == len(maps) == len(clip.viewpoint):
        raise MetricError(
            f"{clip.clip} has {len(video)} frames, {len(maps)} saliency maps and {len(clip.viewpoint)} viewpoints: "
            "delete it and its features and evaluate again"
        )
    visible = np.flatnonzero(wanted.in_view)
    frames = visible[np.unique(np.linspace(0, len(visible) - 1, FRAMES).round().astype(int))]
    sightings = [
        find_object(video[k], maps[k], np.array(clip.viewpoint[k]), wanted.name, float(wanted.radii[k]), place)
        for k in frames
    ]
    pairs = [(found.direction, wanted.directions[k]) for found, k in zip(sightings, frames, strict=True) if found.seen]
    if len(pairs) < LEAST_SEEN * len(frames):
        return None
    seen, true = map(np.stack, zip(*pairs, strict=True))
    return float(direction_error(seen, true).mean())


def _agreements(
    clips: Sequence[EvaluatedClip], scenes: Scenes, classes: Mapping[Side, RowsByClip], faults: Faults
) -> Measured:
    known = {clip.clip: scene for clip in clips if (scene := scenes[clip.clip]) and clip.clip in classes["targets"]}
    fitted = AudioClassifier.fit(
        classes["targets"], [(clip, scene.scene, scene.loudest) for clip, scene in known.items()]
    )
    found = Measured(_AGREEMENT)
    for clip in clips:
        scene = scenes[clip.clip]
        reason = NO_TRUTH if scene is None else _unheard(scene, fitted) or no_features(clip.clip, classes)
        if reason or scene is None:
            found.leave_out(clip.clip, reason)
            continue
        for side in SIDES:
            heard = side == "targets" or clip.clip not in faults.generated["audio"]
            agrees = heard and fitted.predict(classes[side][clip.clip], scene.scene) == scene.loudest
            found.values[side][clip.clip] = float(agrees)
    found.metric = replace(_AGREEMENT, note=_chance(fitted.classes, known, found.values["targets"]))
    return found


def _chance(names: Sequence[str], known: Mapping[str, SceneClip], used: Collection[str]) -> str:
    """Classes and the agreement that guessing reaches, or why there is no number."""
    requested = Counter(scene.loudest for clip, scene in known.items() if clip in used)
    if len(names) < 2:
        return f"fewer than two classes have target clips of {FEWEST_SCENES} scenes in which they are the loudest"
    return (
        f"{len(names)} classes ({', '.join(names)}), chance {1 / len(names):.2f}, always the most frequent one "
        f"{max(requested.values(), default=0) / max(1, requested.total()):.2f}"
    )


def _unheard(scene: SceneClip, fitted: AudioClassifier) -> str:
    """Why the class of a scene's requested object cannot be compared with what is heard; "" if it can."""
    if scene.requested is None:
        return NO_OBJECT
    if scene.loudest != scene.requested.name:
        return "another object than that in view is the loudest"
    if len(fitted.classes) < 2:
        return "too few target clips"
    return "" if scene.loudest in fitted.classes else f"too few target clips of class {scene.loudest}"
