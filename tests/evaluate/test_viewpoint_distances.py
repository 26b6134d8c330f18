"""Distances between viewpoints: over all pairs they equal the Fréchet distance of the pooled rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from con360av_jax.evaluate.extraction import Pair
from con360av_jax.evaluate.features import write_features
from con360av_jax.evaluate.metrics.frechet import frechet_distance, moments
from con360av_jax.evaluate.protocols import SMALL
from con360av_jax.evaluate.results import Metric
from con360av_jax.evaluate.viewpoint_distances import viewpoint_distances
from tests.support.evaluation_stand_ins import card

SCENES, VIEWPOINTS, ROWS, DIM = 4, 3, 2, 3
SIDES = ("generated", "targets")


@dataclass
class World:
    """Random rows of each clip, and what `viewpoint_distances` takes."""

    rows: dict[tuple[str, int, int], np.ndarray]
    """By side, viewpoint and scene."""
    evaluations: list[SimpleNamespace] = field(default_factory=list)
    features: list[Mapping[str, Pair]] = field(default_factory=list)

    def pooled(self, side: str, left_out: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows of both sides over all pairs of viewpoints of each scene."""
        scenes = [scene for scene in range(SCENES) if scene != left_out]
        pairs = [(0, 1), (0, 2), (1, 2)]
        first, second = (
            np.concatenate([self.rows[side, pair[i], scene] for pair in pairs for scene in scenes]) for i in (0, 1)
        )
        return first, second


def made(folder: Path, dim: int = DIM, silent: int | None = None) -> World:
    """A world; the generated clip of scene `silent` has no features from viewpoint 1."""
    random = np.random.default_rng(0)
    world = World(
        {
            (side, view, scene): (random.normal(size=(ROWS, dim)) + view).astype(np.float32)
            for side in SIDES
            for view in range(VIEWPOINTS)
            for scene in range(SCENES)
        }
    )
    for view in range(VIEWPOINTS):
        names = [f"scene_{scene}/0/{view}" for scene in range(SCENES)]
        sets = [
            write_features(
                folder / f"viewpoint_{view}" / side,
                card("sound"),
                (
                    (name.replace("/", "_"), name, world.rows[side, view, scene])
                    for scene, name in enumerate(names)
                    if (scene, view, side) != (silent, 1, "generated")
                ),
            )
            for side in SIDES
        ]
        world.features.append({"sound": (sets[0], sets[1])})
        world.evaluations.append(
            SimpleNamespace(
                folder=folder / f"viewpoint_{view}",
                entries=[SimpleNamespace(key=name) for name in names],
                protocol=SMALL,
                making=SimpleNamespace(seed=0),
                draws=20,
            )
        )
    return world


def distances(world: World) -> tuple[dict[tuple[str, str, str], Metric], Metric]:
    between, pooled = viewpoint_distances(world.evaluations, world.features)  # pyright: ignore[reportArgumentType]
    (all_pairs,) = pooled
    return between, all_pairs


@pytest.mark.parametrize("dim", [DIM, 40])
def test_all_pairs_of_viewpoints_are_pooled(tmp_path: Path, dim: int):
    """Also with fewer rows than dimensions."""
    world = made(tmp_path, dim)
    between, pooled = distances(world)
    for side, found in (("generated", pooled.value), ("targets", pooled.target)):
        first, second = world.pooled(side)
        assert found == pytest.approx(frechet_distance(moments(first), moments(second), "unbiased"), rel=1e-5), side
    assert (pooled.clips, pooled.recordings, pooled.name) == (SCENES * VIEWPOINTS, SCENES, "fad")
    assert pooled.low is not None and pooled.high is not None and pooled.value is not None
    assert pooled.low < pooled.value < pooled.high
    assert [(*key, metric.clips) for key, metric in between.items()] == [
        ("viewpoint_1", "viewpoint_0", "fad", 2 * SCENES),
        ("viewpoint_2", "viewpoint_0", "fad", 2 * SCENES),
        ("viewpoint_2", "viewpoint_1", "fad", 2 * SCENES),
    ]
    assert ("far too large" in pooled.note) == (dim > DIM)


def test_a_pair_without_features_is_left_out_and_counted(tmp_path: Path):
    world = made(tmp_path, silent=2)
    between, pooled = distances(world)
    assert between["viewpoint_2", "viewpoint_0", "fad"].note == ""
    assert between["viewpoint_2", "viewpoint_1", "fad"].note == "1 scene left out"
    assert pooled.note == "2 scenes left out" and pooled.clips == SCENES * VIEWPOINTS - 1


def test_without_any_features_there_is_no_value_but_the_reason(tmp_path: Path):
    world = made(tmp_path)
    world.features = [{} for _ in world.features]
    between, pooled = distances(world)
    for metric in (*between.values(), pooled):
        assert (metric.value, metric.note) == (None, "no scene has sound features of all its clips")
