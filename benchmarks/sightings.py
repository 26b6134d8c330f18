"""What looking for an object in a view of a scene is worth: on views that hold it, that do not, and of other scenes.

    python -m benchmarks.sightings --fastgaze ../shared/models/fastgaze.vxm --out benchmarks/results/sightings.json

Of every scene two objects, each in a view of 60 to 100 degrees that looks up to 25 degrees past it, through H.264:
target   the object is looked for where it is; in frames whose truth has it in view
wrong    the view is another one, taken for this one: what is seen is at no place that was asked for
absent   another class is looked for, that the view does not hold

Degrees are of the frames in which the object is seen. Scenes are of a seed that nothing was designed with.
"""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from con360av_jax.bench.results import Json, environment, publish
from con360av_jax.config.files import load_config
from con360av_jax.evaluate.metrics.av_align import direction_error
from con360av_jax.media.files import read_frames, write_clip
from con360av_jax.scenes.ground_truth import in_view
from con360av_jax.scenes.scene import CLASSES, Scene, SceneObject, make_scene
from con360av_jax.scenes.sighting import find_object
from con360av_jax.scenes.synthetic import render_scene
from con360av_jax.sphere.geometry import direction_from_angles
from preprocess.stages.views import render_track

SEED, SECONDS, FRAMES_PER_SECOND, HEIGHT = 902, 4.0, 1.0, 256
PAST, FIELDS = 25.0, (60.0, 100.0)
"""Degrees."""


@dataclass(frozen=True)
class View:
    """One view and what is looked for in it."""

    scene: Scene
    item: SceneObject
    viewpoint: np.ndarray
    pictures: np.ndarray
    maps: np.ndarray

    def directions(self, item: SceneObject) -> np.ndarray:
        """Where an object truly is, frame by frame."""
        return direction_from_angles(*item.motion.angles(np.arange(len(self.pictures)) / FRAMES_PER_SECOND))


def make_views(scenes: int, size: int, saliency: Callable[[np.ndarray], np.ndarray]) -> list[View]:
    """Two views of every scene."""
    random, views = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(scenes):
            scene = make_scene(SEED, index, SECONDS)
            panoramas = render_scene(scene, HEIGHT, 2 * HEIGHT, FRAMES_PER_SECOND).video
            for item in scene.objects[:2]:
                yaw, pitch = np.array(item.motion.angles(np.array(SECONDS / 2)))
                past, field = np.radians(random.uniform(-PAST, PAST, 2)), np.radians(random.uniform(*FIELDS))
                yaw = np.angle(np.exp(1j * (yaw + past[0])))
                viewpoint = np.array([yaw, np.clip(pitch + past[1], -1.4, 1.4), field, field])
                pictures = render_track(panoramas, np.tile(viewpoint, (len(panoramas), 1)), size, size)
                path = Path(folder) / "view.mp4"
                write_clip(path, pictures, FRAMES_PER_SECOND, None, 16_000)
                pictures = read_frames(path, FRAMES_PER_SECOND)
                views.append(View(scene, item, viewpoint, pictures, saliency(pictures)))
    return views


def looked(shown: View, asked: View, name: str) -> list[tuple[bool, float]]:
    """Whether the object of `asked`, as class `name`, is seen in what is shown, and degrees to its place."""
    radii = asked.item.angular_radius(np.arange(len(asked.pictures)) / FRAMES_PER_SECOND, SECONDS)
    rows = []
    for number, true in enumerate(asked.directions(asked.item)):
        if in_view(true, asked.viewpoint):
            picture, saliency = shown.pictures[number], shown.maps[number]
            place = shown.scene.background.palette
            found = find_object(picture, saliency, asked.viewpoint, name, float(radii[number]), place)
            rows.append((found.seen, float(direction_error(found.direction[None], true[None])[0])))
    return rows


def absent(view: View) -> list[str]:
    """Classes of which nothing is in the view, not even in part."""
    centre = direction_from_angles(view.viewpoint[0], view.viewpoint[1])
    reach = np.cos(view.viewpoint[2] * 0.75 + np.radians(20))
    near = {item.name for item in view.scene.objects if (view.directions(item) @ centre).max() >= reach}
    return [name for name in CLASSES if name not in near]


def summed_up(rows: list[tuple[bool, float]], places: bool = True) -> Json:
    """Share seen, and of those median and mean degrees and the shares within 5 and 10."""
    seen, degrees = (np.array(column) for column in zip(*rows, strict=True))
    found: Json = {"frames": len(rows), "share_seen": float(seen.mean())}
    if places and seen.any():
        kept = degrees[seen]
        found |= {"median_degrees": float(np.median(kept)), "mean_degrees": float(kept.mean())}
        found |= {f"share_within_{limit}_degrees": float((kept < limit).mean()) for limit in (5, 10)}
    return found


def main() -> None:
    """Measures at each size of views and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="of square views, pixels")
    parser.add_argument("--fastgaze", type=Path, help="its weights; without, saliency is even and helps nobody")
    parser.add_argument("--out", type=Path, help="JSON file with the results")
    arguments = parser.parse_args()

    def even(pictures: np.ndarray) -> np.ndarray:
        return np.ones((len(pictures), 30, 30), np.float32)

    saliency = even
    if arguments.fastgaze:
        from preprocess.features.fastgaze import open_fastgaze

        saliency = open_fastgaze(arguments.fastgaze)
    results: Json = {}
    for size in arguments.sizes:
        views = make_views(arguments.scenes, size, saliency)
        others = views[7:] + views[:7]
        results[f"{size} pixels"] = {
            "target": summed_up([row for view in views for row in looked(view, view, view.item.name)]),
            "wrong": summed_up(
                [row for view, other in zip(views, others, strict=True) for row in looked(other, view, view.item.name)]
            ),
            "absent": summed_up(
                [row for view in views for name in absent(view) for row in looked(view, view, name)], places=False
            ),
        }
    about = {"scenes": arguments.scenes, "seed": SEED, "saliency": "FastGaze" if arguments.fastgaze else "even"}
    quoted = environment(load_config("debug"), ("opencv-python-headless",))
    quoted["command"] = shlex.join(["python", *sys.argv])
    publish({"benchmark": "sightings", **quoted, **about, "views": results}, arguments.out)


if __name__ == "__main__":
    main()
