"""Evaluation folders of scenes of version 2 whose judgements are made up from the truth, without clips or networks."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from con360av_jax.base.parts import judge_factory
from con360av_jax.config.files import load_config
from con360av_jax.config.pretraining import JUDGES
from con360av_jax.config.settings import Config
from con360av_jax.evaluate.faults import Faults
from con360av_jax.evaluate.features import FeatureCard, write_features
from con360av_jax.evaluate.judges import Judge, JudgeCard, write_judge
from con360av_jax.evaluate.selection import EvaluatedClip, write_clips
from con360av_jax.models import functional
from con360av_jax.scenes.scene import CLASSES, Scene
from con360av_jax.scenes.textures import PALETTES
from con360av_jax.scenes.timbres import loudness_envelope, object_sound
from con360av_jax.scenes.truth import scene_truth
from con360av_jax.scenes.version_2 import make_scene_2
from con360av_jax.scenes.views import Viewpoint, draw_viewpoints, position_directions, seen_objects
from con360av_jax.sphere.geometry import rotation
from tests.support.tiny_world import with_part

CONFIG: Config = load_config("small")
SEED = 12
SURE = 8.0
"""Logit of a certain judgement."""
INTACT = Faults(generated={"audio": {}, "video": {}}, targets={"audio": {}, "video": {}})
N = len(CLASSES)


def write_judges(folder: Path, config: Config) -> dict[str, Path]:
    """A file of each judge with random weights, by name."""
    found = {}
    for number, name in enumerate(JUDGES):
        params = functional.init(judge_factory(name, config.pretrain, config.mel.bands), jax.random.key(number))
        card = JudgeCard(name=name, pretrain=config.pretrain, mel=config.mel, origin={"step": 3, "run": "/a/b"})
        found[name] = folder / f"{name}.safetensors"
        write_judge(Judge(card, params, ""), found[name])
    return found


def tiny_judges(config: Config) -> Config:
    """The config with judges of few channels."""
    config = with_part(config, "pretrain.judge_video", widths=(8, 16), size=16)
    return with_part(config, "pretrain.judge_audio", widths=(8, 8, 8, 8), features=16)


@dataclass(frozen=True)
class Judged:
    """A clip of a scene, and rows of what is judged of it."""

    scene: Scene
    clip: EvaluatedClip
    view: np.ndarray
    sounds: np.ndarray

    @property
    def viewpoint(self) -> Viewpoint:
        return np.array(self.clip.viewpoint[0], np.float32)

    def turned(self, angle: float) -> "Judged":
        """The same with objects where a view `angle` (rad) further right shows them, even beyond its edge."""
        yaw, pitch, *fields = map(float, self.viewpoint)
        view = self.view.copy()
        places = view[:, N : 3 * N].reshape(len(view), N, 2)
        x, y, z = np.moveaxis(position_directions(places, self.viewpoint) @ rotation(yaw + angle, pitch), -1, 0)
        moved = np.stack([x, y], axis=-1) / z[..., None] / np.tan(np.array(fields) / 2)
        view[:, N : 3 * N] = moved.reshape(len(view), 2 * N)
        return replace(self, view=view)


def judged(index: int, number: int = 0) -> Judged:
    """Viewpoint `number` of scene `index`, judged perfectly."""
    scene = make_scene_2(SEED, index, float(CONFIG.clip.seconds), "validation")
    viewpoint = draw_viewpoints(scene, 1.0, np.random.default_rng(index), number + 1)[number]
    clip = EvaluatedClip(
        clip=f"scene_{index:06d}_0_{number}",
        key=f"scene_{index:06d}/0/{number}",
        caption=scene.caption,
        start=0.0,
        segment=0,
        viewpoint_index=number,
        seed=0,
        viewpoint=(tuple(map(float, viewpoint)),) * CONFIG.clip.frames,  # pyright: ignore[reportArgumentType]
    )
    return Judged(scene, clip, view_rows(scene, viewpoint), sounds_rows(scene))


def view_rows(scene: Scene, viewpoint: Viewpoint) -> np.ndarray:
    """Certain judgements of every frame."""
    rows = np.full((CONFIG.clip.frames, 4 * N + len(PALETTES)), -SURE, np.float32)
    rows[:, N : 3 * N] = 0
    rows[:, 4 * N + list(PALETTES).index(scene.background.palette)] = SURE
    for frame, row in enumerate(rows):
        for item in seen_objects(scene, frame / CONFIG.clip.frames_per_second, viewpoint):
            number = CLASSES.index(item.name)
            row[number] = SURE
            row[N + 2 * number : N + 2 * number + 2] = item.position
            row[3 * N + number] = logit(item.envelope)
    return rows


def sounds_rows(scene: Scene) -> np.ndarray:
    """Certain judgements of steps of 40 ms."""
    times = np.arange(50) * 0.04
    rows = np.full((len(times), 2 * N), -SURE, np.float32)
    for item in scene.objects:
        number = CLASSES.index(item.name)
        rows[:, number] = SURE
        rows[:, N + number] = [logit(float(envelope)) for envelope in loudness_envelope(item, times)]
    return rows


def logit(share: float) -> float:
    share = min(max(share, 1e-4), 1 - 1e-4)
    return float(np.log(share / (1 - share)))


def evaluation(folder: Path, targets: Sequence[Judged], generated: Sequence[Judged]) -> Path:
    """An evaluation folder with the judgements of both sides and the truth."""
    folder.mkdir(parents=True, exist_ok=True)
    for side, clips in (("targets", targets), ("generated", generated)):
        write_rows(folder, side, "view", clips, lambda each: each.view)
        write_rows(folder, side, "sounds", clips, lambda each: each.sounds)
    write_clips(folder, [each.clip for each in targets])
    write_truth(folder / "truth", [each.scene for each in targets], [each.clip.key for each in targets])
    return folder


def write_rows(
    folder: Path, side: str, part: str, clips: Sequence[Judged], make: Callable[[Judged], np.ndarray]
) -> None:
    kind = "video" if part in ("view", "video_judge") else "sound"
    card = FeatureCard(kind=kind, model="none", weights_sha256="", settings={}, packages={})
    rows = ((each.clip.clip, f"{each.clip.clip}.mp4", make(each)) for each in clips)
    write_features(folder / "features" / side / part, card, rows)


def write_truth(folder: Path, scenes: Sequence[Scene], keys: Sequence[str]) -> None:
    """Truth of scenes as `con360av synth` leaves it."""
    folder.mkdir(exist_ok=True)
    for scene, key in zip(scenes, keys, strict=True):
        sources = [object_sound(item, scene.seconds, 16_000) for item in scene.objects]
        truth = scene_truth(scene, sources, np.arange(round(8 * scene.seconds)) / 8, 16_000)
        (folder / f"{key.partition('/')[0]}.json").write_text(json.dumps(truth))
