"""Evaluation folders of procedural scenes without networks: views of known content, maps and scores made up."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from con360av_jax.config.files import load_config
from con360av_jax.config.settings import Config
from con360av_jax.evaluate.control_metrics import control_metrics
from con360av_jax.evaluate.faults import find_faults
from con360av_jax.evaluate.feature_metrics import Found
from con360av_jax.evaluate.features import FeatureCard, write_features
from con360av_jax.evaluate.results import Exclusion, Metric
from con360av_jax.evaluate.selection import EvaluatedClip, read_clips, write_clips
from con360av_jax.media.files import write_clip
from con360av_jax.scenes.scene import CLASSES, make_scene
from con360av_jax.scenes.synthetic import SyntheticClip, render_scene
from preprocess.stages.views import render_tracks

DEBUG = load_config("debug")
# Eight frames a clip: as many as are looked at.
CONFIG: Config = replace(DEBUG, clip=replace(DEBUG.clip, frames_per_second=2, height=128, width=128))
FIELD_OF_VIEW = np.radians(80)
SCORES = 521
SEED = 4711


@dataclass(frozen=True)
class View:
    """Content of one record of a scene."""

    scene: SyntheticClip
    clip: EvaluatedClip
    pictures: np.ndarray
    sound: np.ndarray


def largest(scene: SyntheticClip) -> int:
    """Number of the object that is largest in the middle frame."""
    radii = [item["angular_radius_deg"][CONFIG.clip.frames // 2] for item in scene.truth["objects"]]
    return int(np.argmax(radii))


def view(index: int, turn: float = 0.0) -> View:
    """Scene `index` seen towards its largest object, a little beside it; pictures from `turn` (rad) further right."""
    clip = CONFIG.clip
    scene = render_scene(make_scene(SEED, index, clip.seconds), 192, 384, clip.frames_per_second)
    item = scene.truth["objects"][largest(scene)]
    middle, beside = clip.frames // 2, np.random.default_rng(index).uniform(-0.25, 0.25, 2)
    yaw, pitch = np.radians([item["lon_deg"][middle], item["lat_deg"][middle]]) + beside
    track = np.tile(
        [np.angle(np.exp(1j * yaw)), np.clip(pitch, -1.2, 1.2), FIELD_OF_VIEW, FIELD_OF_VIEW], (clip.frames, 1)
    )
    shown = track + [turn, 0, 0, 0]
    pictures = render_tracks(scene.video, [shown], clip.height, clip.width)[0]
    described = EvaluatedClip(
        clip=f"scene_{index:06d}_0_0",
        key=f"scene_{index:06d}/0/0",
        caption=scene.caption,
        start=0.0,
        segment=0,
        viewpoint_index=0,
        seed=0,
        viewpoint=tuple(map(tuple, track.tolist())),
    )
    return View(scene, described, pictures, scene.sound[:, 0])


def write_truth(folder: Path, views: Sequence[View]) -> Path:
    """A folder as `con360av synth` leaves it, without the videos."""
    folder.mkdir(exist_ok=True)
    for each in views:
        name = each.clip.key.partition("/")[0]
        (folder / f"{name}.json").write_text(json.dumps(each.scene.truth))
    return folder


def write_side(folder: Path, side: str, views: Sequence[View]) -> None:
    """One side's clips, and saliency that is even everywhere: it helps nobody."""
    for each in views:
        (folder / side).mkdir(exist_ok=True, parents=True)
        path = folder / side / f"{each.clip.clip}.mp4"
        write_clip(path, each.pictures, CONFIG.clip.frames_per_second, each.sound, CONFIG.mel.sample_rate)
    even = np.ones((CONFIG.clip.frames, 6, 6), np.float32)
    write_part(folder, side, "saliency", views, lambda each: even)


def write_part(folder: Path, side: str, part: str, views: Sequence[View], make: Callable[[View], np.ndarray]) -> None:
    """A features folder."""
    kind = "saliency" if part == "saliency" else "sound"
    card = FeatureCard(kind=kind, model="none", weights_sha256="", settings={}, packages={})
    rows = ((each.clip.clip, f"{each.clip.clip}.mp4", make(each)) for each in views)
    write_features(folder / "features" / side / part, card, rows)


def scores_of(name: str, random: np.random.Generator) -> np.ndarray:
    """Windows of scores in which a class of scenes has a column of its own."""
    scores = random.uniform(0, 0.05, (4, SCORES)).astype(np.float32)
    scores[:, CLASSES.index(name)] = random.uniform(0.6, 0.9)
    return scores


def evaluation(folder: Path, targets: Sequence[View], generated: Sequence[View]) -> Path:
    """An evaluation folder of both sides and the truth of the targets, without classes."""
    write_side(folder, "targets", targets)
    write_side(folder, "generated", generated)
    write_clips(folder, [each.clip for each in targets])
    write_truth(folder / "truth", targets)
    return folder


def found(folder: Path, truth: Path | None) -> Found:
    """The control metrics of an evaluation folder."""
    return control_metrics(folder, truth, CONFIG, find_faults(folder, read_clips(folder), CONFIG))


def measured(folder: Path) -> tuple[dict[str, Metric], dict[str, dict[str, float]], list[Exclusion]]:
    """Metrics by name, scores by clip and exclusions of a folder of `evaluation`."""
    told = found(folder, folder / "truth")
    return {metric.name: metric for metric in told.metrics}, told.scores, told.exclusions


def value(number: float | None) -> float:
    """The number, which must be there."""
    assert number is not None
    return number
