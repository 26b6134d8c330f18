"""Metrics of protocol `scenes`: what the judges see and hear in clips, against the truth of their scenes.

With the requested object as in scenes/ground_truth.py, and frames in which its centre truly is in view:
judge_in_view          share of clips in which its class has a mean probability of at least the threshold
judge_empty_view       share of the other clips, which show no object, in which no class reaches the threshold
judge_direction_error  median over clips in which it is seen of its mean direction error, degrees
judge_direction_error_all  the same over all clips, with UNSEEN degrees where it is not seen
judge_place            share of clips in which the place of the scene is the most probable one
judge_heard            2 TP / (2 TP + FP + FN) over clips and classes, of the classes that sound in the clip
judge_onsets           mean over clips of the correlation of the object's envelope seen in its frames with the one that
                       is heard of its class at these times; 0 where one does not vary
(1) chance   share of pairs of clips of different scenes in which the object that the one requests is seen in the other

The onsets themselves are no truth for a generated clip: nothing that the model is given says when a note starts.
Clips are left out only for a fault or a property of their target. Each metric is also computed for the targets.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from con360av_jax.config.settings import Config
from con360av_jax.data.schema import recording_of
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.faults import Faults, Side
from con360av_jax.evaluate.feature_metrics import Found
from con360av_jax.evaluate.judging import Sounds, View, sounds_of, view_of
from con360av_jax.evaluate.measured import NO_OBJECT, SIDES, UNSEEN, Measured, features_by_clip, no_features, together
from con360av_jax.evaluate.metrics.av_align import direction_error
from con360av_jax.evaluate.metrics.bootstrap import DRAWS
from con360av_jax.evaluate.protocols import JudgeProtocol
from con360av_jax.evaluate.results import Metric
from con360av_jax.evaluate.selection import EvaluatedClip, read_clips
from con360av_jax.models.judge import STEP
from con360av_jax.scenes.ground_truth import RequestedObject, SceneClip, scene_clip
from con360av_jax.scenes.scene import CLASSES
from con360av_jax.scenes.textures import PALETTES
from con360av_jax.scenes.views import position_directions

LEAST_FRAMES = 4
"""Frames with the object in view that a correlation needs."""
LEAST_CHANGE = 0.05
"""Standard deviation of an envelope, seen and heard in a target, from which it counts as varying."""

_higher = partial(Metric, unit="", lower_is_better=False, value=None)
_degrees = partial(Metric, unit="degrees", lower_is_better=True, value=None)
_METRICS = (
    _higher(name="judge_in_view", title="right object in view (judge)"),
    _higher(name="judge_empty_view", title="views of no object that show none (judge)"),
    _degrees(
        name="judge_direction_error",
        title="direction of the asked-for object (judge, median)",
        note="only of clips in which it is seen",
    ),
    _degrees(
        name="judge_direction_error_all",
        title="direction of the asked-for object, all clips (judge, median)",
        note=f"{UNSEEN:g} degrees where it is not seen",
    ),
    _higher(name="judge_place", title="right place (judge)"),
    _higher(name="judge_heard", title="classes heard (judge, F1)"),
    _higher(name="judge_onsets", title="loudness seen against loudness heard of the asked-for object (judge)"),
)
NAMES = tuple(metric.name for metric in _METRICS)

Views = Mapping[Side, Mapping[str, View]]
AllSounds = Mapping[Side, Mapping[str, Sounds]]
Judgement = TypeVar("Judgement", View, Sounds)


def judge_metrics(
    folder: Path,
    truth: Path,
    config: Config,
    protocol: JudgeProtocol,
    faults: Faults,
    seed: int = 0,
    draws: int = DRAWS,
) -> Found:
    """Metrics of an evaluation folder whose clips are judged, scores of its generated clips, and exclusions.

    Raises MetricError if the truth of a clip is missing or corrupt, or a generated clip lacks features.
    """
    clips = read_clips(folder)
    scenes = {clip.clip: _truth_of(truth, clip, config) for clip in clips}
    found = {metric.name: Measured(metric, median=metric.name.startswith("judge_direction")) for metric in _METRICS}
    views, lacking = _judgements(folder, "view", view_of, clips, faults)
    sounds, silent = _judgements(folder, "sounds", sounds_of, clips, faults)
    _in_view(found, clips, scenes, views, lacking, protocol.threshold)
    _places(found["judge_place"], clips, scenes, views, lacking)
    _heard(found["judge_heard"], clips, scenes, sounds, silent, protocol.threshold)
    _onsets(found["judge_onsets"], clips, scenes, views, sounds, lacking | silent, config)
    metrics = together(tuple(found.values()), seed, draws)
    metrics.metrics = [_relative(metric) for metric in metrics.metrics]
    return metrics


def require_truth(truth: Path | None, keys: Iterable[str]) -> None:
    """Raises MetricError unless `truth` is a folder with the truth of the scene of every record."""
    for key in keys:
        if truth is None or not (truth / f"{recording_of(key)}.json").is_file():
            raise _lacks(truth, key)


def _lacks(truth: Path | None, key: str) -> MetricError:
    return MetricError(
        f"{truth} has no truth of record {key}: give --truth the folder that con360av synth wrote and that the dataset "
        "was made from"
    )


def _truth_of(truth: Path, clip: EvaluatedClip, config: Config) -> SceneClip:
    scene = scene_clip(truth, clip.key, clip.start, np.array(clip.viewpoint), config.clip.frames_per_second)
    if scene is None:
        raise _lacks(truth, clip.key)
    return scene


def _judgements(
    folder: Path, part: str, read: Callable[[np.ndarray], Judgement], clips: Sequence[EvaluatedClip], faults: Faults
) -> tuple[Mapping[Side, Mapping[str, Judgement]], dict[str, str]]:
    """Judgements of both sides from the rows of `part`, and why clips are left out."""
    features = features_by_clip(folder, part, faults)
    if features is None:
        return {side: {} for side in SIDES}, {clip.clip: "no target was judged" for clip in clips}
    lacking = {clip.clip: reason for clip in clips if (reason := no_features(clip.clip, features))}
    kept = [clip.clip for clip in clips if clip.clip not in lacking]
    return {side: {clip: read(features[side][clip]) for clip in kept} for side in SIDES}, lacking


def _in_view(
    found: Mapping[str, Measured],
    clips: Sequence[EvaluatedClip],
    scenes: Mapping[str, SceneClip],
    views: Views,
    lacking: Mapping[str, str],
    threshold: float,
) -> None:
    """The metrics judge_in_view, judge_empty_view, judge_direction_error and judge_direction_error_all."""
    in_view, empty, errors, all_errors = (found[name] for name in NAMES[:4])
    for clip in clips:
        requested = scenes[clip.clip].requested
        for one in (in_view, errors, all_errors, empty):
            wrong = "an object is in view" if requested is not None else NO_OBJECT
            if reason := lacking.get(clip.clip) or (wrong if (one is empty) == (requested is not None) else ""):
                one.leave_out(clip.clip, reason)
        for side in SIDES if clip.clip not in lacking else ():
            view = views[side][clip.clip]
            if requested is None:
                empty.values[side][clip.clip] = float(view.in_view.mean(axis=0).max() < threshold)
                continue
            seen = _probability(view, requested) >= threshold
            error = judged_direction_error(view, requested, np.array(clip.viewpoint))
            in_view.values[side][clip.clip] = float(seen)
            all_errors.values[side][clip.clip] = error if seen else UNSEEN
            if seen:
                errors.values[side][clip.clip] = error
            else:
                errors.leave_out(clip.clip, f"{side.removesuffix('s')}: the asked-for object is not seen")
    chance = _chance(scenes, views["generated"], threshold)
    in_view.metric = replace(in_view.metric, chance=chance)
    in_view.add_note(f"chance {chance:.2f}")


def _probability(view: View, requested: RequestedObject) -> float:
    return float(view.in_view[requested.in_view, CLASSES.index(requested.name)].mean())


def judged_direction_error(view: View, requested: RequestedObject, track: Float[np.ndarray, "frame 4"]) -> float:
    """Mean angle between judged and true direction of an object over the frames in which it is in view, degrees.

    Raises MetricError for different numbers of frames.
    """
    if not len(view.in_view) == len(requested.in_view) == len(track):
        raise MetricError(
            f"{len(view.in_view)} frames were judged, but the clip has {len(track)}: delete the features and evaluate "
            "again"
        )
    frames = np.flatnonzero(requested.in_view)
    positions = view.position[frames, CLASSES.index(requested.name)]
    seen = np.stack([position_directions(place, track[k]) for place, k in zip(positions, frames, strict=True)])
    return float(direction_error(seen, requested.directions[frames]).mean())


def _chance(scenes: Mapping[str, SceneClip], views: Mapping[str, View], threshold: float) -> float:
    """Equation (1)."""
    judged = {clip: view.in_view.mean(axis=0) >= threshold for clip, view in views.items()}
    shares = [
        np.mean(others)
        for clip in judged
        if (requested := scenes[clip].requested) is not None
        and (
            others := [
                seen[CLASSES.index(requested.name)]
                for other, seen in judged.items()
                if scenes[other].scene != scenes[clip].scene and scenes[other].requested is not None
            ]
        )
    ]
    return float(np.mean(shares)) if shares else 0.0


def _places(
    found: Measured,
    clips: Sequence[EvaluatedClip],
    scenes: Mapping[str, SceneClip],
    views: Views,
    lacking: Mapping[str, str],
) -> None:
    places = list(PALETTES)
    for clip in clips:
        if clip.clip in lacking:
            found.leave_out(clip.clip, lacking[clip.clip])
            continue
        for side in SIDES:
            judged = places[int(views[side][clip.clip].place.mean(axis=0).argmax())]
            found.values[side][clip.clip] = float(judged == scenes[clip.clip].place)


def _heard(
    found: Measured,
    clips: Sequence[EvaluatedClip],
    scenes: Mapping[str, SceneClip],
    sounds: AllSounds,
    lacking: Mapping[str, str],
    threshold: float,
) -> None:
    for clip in clips:
        there = np.array([name in scenes[clip.clip].sounding for name in CLASSES])
        if reason := lacking.get(clip.clip) or ("" if there.any() else "nothing sounds in its scene at that time"):
            found.leave_out(clip.clip, reason)
            continue
        for side in SIDES:
            heard = sounds[side][clip.clip].heard >= threshold
            both = float(heard.sum() + there.sum())
            found.values[side][clip.clip] = 2 * float((heard & there).sum()) / both
            found.counts[side][clip.clip] = both


def _onsets(
    found: Measured,
    clips: Sequence[EvaluatedClip],
    scenes: Mapping[str, SceneClip],
    views: Views,
    sounds: AllSounds,
    lacking: Mapping[str, str],
    config: Config,
) -> None:
    for clip in clips:
        requested = scenes[clip.clip].requested
        reason = lacking.get(clip.clip) or ("" if requested is not None else NO_OBJECT)
        if requested is None or reason:
            found.leave_out(clip.clip, reason)
            continue
        both = {side: _envelopes(views[side][clip.clip], sounds[side][clip.clip], requested, config) for side in SIDES}
        if len(both["targets"][0]) < LEAST_FRAMES or min(map(np.std, both["targets"])) < LEAST_CHANGE:
            found.leave_out(clip.clip, "target: the asked-for object does not change its loudness in view")
            continue
        for side in SIDES:
            found.values[side][clip.clip] = correlation(*both[side])


def _envelopes(
    view: View, sounds: Sounds, requested: RequestedObject, config: Config
) -> tuple[Float[np.ndarray, "frame"], Float[np.ndarray, "frame"]]:
    """The requested object's envelope as seen and as heard, at the frames in which it is in view."""
    number, frames = CLASSES.index(requested.name), np.flatnonzero(requested.in_view)
    times = np.arange(len(sounds.envelope)) * STEP / config.mel.frames_per_second
    heard = np.interp(frames / config.clip.frames_per_second, times, sounds.envelope[:, number])
    return view.envelope[frames, number], heard


def correlation(one: Float[np.ndarray, "frame"], other: Float[np.ndarray, "frame"]) -> float:
    """Pearson's correlation; 0 where one side does not vary."""
    a, b = one - one.mean(), other - other.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 1e-9 else 0.0


def _relative(metric: Metric) -> Metric:
    """The metric with its share of the targets' own value in its note, where higher is better."""
    if metric.lower_is_better or metric.value is None or not metric.target or metric.target <= 0:
        return metric
    return metric.with_note(f"{metric.value / metric.target:.0%} of the targets' own")
