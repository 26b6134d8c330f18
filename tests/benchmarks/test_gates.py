"""Gates of the small model, with judges that say what they are told."""

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.models.judge import Heard, Seen
from con360av_jax.scenes.scene import CLASSES
from con360av_jax.scenes.textures import PALETTES

pytest.importorskip("torch", reason="benchmarks compare with the original libraries")

from benchmarks.gates import judged_audio, judged_views

PLACES = list(PALETTES)


def seen(*names: str) -> tuple[Any, ...]:
    return tuple(SimpleNamespace(name=name) for name in names)


SCENES = (
    {"seen": seen("bell", "drum"), "place": PLACES[0]},
    {"seen": seen("chirp"), "place": PLACES[1]},
    {"seen": (), "place": PLACES[2]},
    {"seen": (), "place": PLACES[3]},
)


def judge_of(in_view: np.ndarray, place: np.ndarray) -> Any:
    """A judge that sees row k of the arrays in a frame whose pixels are k."""

    def apply(params: None, frames: np.ndarray) -> Any:
        rows = np.rint((np.asarray(frames)[:, 0, 0, 0] + 1) * 127.5).astype(int)
        nothing = jnp.zeros((len(rows), len(CLASSES)))
        return Seen(
            in_view=jnp.asarray(in_view)[rows],
            attention=nothing[:, None],
            position=jnp.zeros((*nothing.shape, 2)),
            envelope=nothing,
            place=jnp.asarray(place)[rows],
            features=nothing,
        )

    return SimpleNamespace(params=None, apply=apply)


def test_views_are_judged_by_the_nearest_object_and_the_place():
    in_view, place = np.full((4, len(CLASSES)), -8.0), np.eye(4, len(PLACES))
    in_view[0, CLASSES.index("drum")] = 8.0  # in view, but not the nearest to the centre
    in_view[1, CLASSES.index("chirp")] = 8.0
    in_view[2, CLASSES.index("bell")] = 8.0  # where there is none
    place[3] = np.eye(len(PLACES))[0]
    stills = np.tile(np.arange(4, dtype=np.uint8)[:, None, None, None, None], (1, 1, 8, 8, 3))
    found = judged_views(judge_of(in_view, place), stills, SCENES)
    assert found == {"class": 0.5, "empty": 0.5, "place": 0.75}


def test_flicker_counts_in_views_of_no_object_only():
    judge = judge_of(np.full((256, len(CLASSES)), -8.0), np.eye(256, len(PLACES)))
    clips = np.zeros((4, 3, 8, 8, 3), np.uint8)
    clips[0, 1] = 200
    clips[3, 1] = 4
    # Changes of 4 and -4 in one of two clips.
    assert judged_views(judge, clips, SCENES)["flicker"] == pytest.approx(2.0)


def test_classes_heard_count_over_all_clips():
    scores = np.full((2, 1, len(CLASSES)), -8.0, np.float32)
    scores[0, 0, :2] = 8.0

    def apply(params: None, mel: np.ndarray) -> Any:
        made: Any = scores[int(mel[0, 0, 0])][None]
        return Heard(scores=made, envelope=made, features=made)

    judge: Any = SimpleNamespace(params=None, apply=apply)
    mels = np.tile(np.arange(2, dtype=np.float32)[:, None, None], (1, 8, 4))
    scenes = [{"classes": (CLASSES[0],)}, {"classes": (CLASSES[1],)}]
    # One of the two that are heard is right, and one of the two that sound is heard.
    assert judged_audio(judge, mels, scenes) == {"heard_f1": 0.5}
