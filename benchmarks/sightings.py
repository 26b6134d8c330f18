"""Accuracy of finding an object of a procedural scene in a view: present, absent, or in a view of another scene.

    python -m benchmarks.sightings --fastgaze fastgaze.vxm --out benchmarks/results/sightings.json

Two objects per scene, each in a view of 60 to 100 degrees centred up to 25 degrees beside it, encoded with H.264:
target   the object is searched in its own view, in frames whose ground truth has it in view
wrong    the object is searched in the view of another scene
absent   a class that the view does not contain is searched

Errors in degrees cover the frames in which the object is found. No threshold was tuned on the seed of these scenes.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import harness
from con360av_jax.config.files import load_config
from con360av_jax.evaluate.metrics.av_align import direction_error
from con360av_jax.media.files import read_frames, write_clip
from con360av_jax.scenes.ground_truth import in_view
from con360av_jax.scenes.scene import CLASSES, Scene, SceneObject, make_scene
from con360av_jax.scenes.sighting import find_object
from con360av_jax.scenes.synthetic import render_scene
from con360av_jax.sphere.geometry import direction_from_angles
from preprocess.stages.views import render_tracks

SEED, SECONDS, FRAMES_PER_SECOND, HEIGHT = 902, 4.0, 1.0, 256
PAST, FIELDS = 25.0, (60.0, 100.0)
"""Largest offset of a view's centre from its object, and range of fields of view, degrees."""


@dataclass(frozen=True)
class View:
    """One view, its object, frames and saliency maps."""

    scene: Scene
    item: SceneObject
    viewpoint: np.ndarray
    pictures: np.ndarray
    maps: np.ndarray

    def directions(self, item: SceneObject) -> np.ndarray:
        """True direction of an object in every frame, unit vectors (frame, 3)."""
        return direction_from_angles(*item.motion.angles(np.arange(len(self.pictures)) / FRAMES_PER_SECOND))


def make_views(scenes: int, size: int, saliency: Callable[[np.ndarray], np.ndarray]) -> list[View]:
    """Renders two views of every scene."""
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
                track = np.tile(viewpoint, (len(panoramas), 1))
                (pictures,) = render_tracks(panoramas, [track], size, size)
                path = Path(folder) / "view.mp4"
                write_clip(path, pictures, FRAMES_PER_SECOND, None, 16_000)
                pictures = read_frames(path, FRAMES_PER_SECOND)
                views.append(View(scene, item, viewpoint, pictures, saliency(pictures)))
    return views


def looked(shown: View, asked: View, name: str) -> list[tuple[bool, float]]:
    """Searches the object of `asked` as class `name` in `shown`: found or not, and error in degrees, per frame."""
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
    """Classes of which no object is in the view, not even in part."""
    centre = direction_from_angles(view.viewpoint[0], view.viewpoint[1])
    reach = np.cos(view.viewpoint[2] * 0.75 + np.radians(20))
    near = {item.name for item in view.scene.objects if (view.directions(item) @ centre).max() >= reach}
    return [name for name in CLASSES if name not in near]


def summed_up(rows: list[tuple[bool, float]], places: bool = True) -> harness.Json:
    """Share found; median and mean error of these in degrees, and shares within 5 and 10 degrees."""
    seen, degrees = (np.array(column) for column in zip(*rows, strict=True))
    found: harness.Json = {"frames": len(rows), "share_seen": float(seen.mean())}
    if places and seen.any():
        kept = degrees[seen]
        found |= {"median_degrees": float(np.median(kept)), "mean_degrees": float(kept.mean())}
        found |= {f"share_within_{limit}_degrees": float((kept < limit).mean()) for limit in (5, 10)}
    return found


def main() -> None:
    """Measures at each size of views and publishes."""
    parser = harness.parser(__doc__, config="debug")
    parser.add_argument("--scenes", type=int, default=24, help="number of scenes")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="sides of the square views, pixels")
    parser.add_argument("--fastgaze", type=Path, help="weights of FastGaze; saliency is uniform if left out")
    arguments = parser.parse_args()

    def even(pictures: np.ndarray) -> np.ndarray:
        return np.ones((len(pictures), 30, 30), np.float32)

    saliency = even
    if arguments.fastgaze:
        from preprocess.features.fastgaze import open_fastgaze

        saliency = open_fastgaze(arguments.fastgaze)
    results: harness.Json = {}
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
    environment = harness.environment(load_config(arguments.config), ("opencv-python-headless",))
    harness.publish({"benchmark": "sightings", **environment, **about, "views": results}, arguments.out)


if __name__ == "__main__":
    main()
