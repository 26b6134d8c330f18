"""The objectives of the judges: they fit what they see, and their truth is that of the scenes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.errors import ConfigError, DatasetError
from con360av_jax.scenes.scene import CLASSES
from con360av_jax.scenes.sources import SceneAudio, SceneStills
from con360av_jax.scenes.textures import PALETTES
from con360av_jax.scenes.timbres import loudness_envelope
from con360av_jax.scenes.version_2 import make_scene_2
from con360av_jax.scenes.views import position_directions
from con360av_jax.train.objectives import judge_audio, judge_video
from con360av_jax.train.objectives.choose import make_objective
from con360av_jax.train.objectives.judgement import agreement, class_sums, envelope_sums, f1
from con360av_jax.train.pretraining_data import RecordData, SceneData
from tests.support import tiny_world
from tests.support.tiny_world import with_part

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def config(tiny: Config) -> Config:
    tiny = with_part(tiny, "pretrain.judge_video", widths=(8, 16), size=16)
    return with_part(tiny, "pretrain.judge_audio", widths=(8, 8, 8, 8), features=16)


def test_the_truth_of_a_still_is_that_of_its_scene():
    stills = SceneStills(3)
    shown = [stills[number] for number in range(8)]
    assert any(view["seen"] for view in shown)
    for view in shown:
        found = judge_video.whole(view, RANDOM)
        assert {CLASSES[number] for number in np.flatnonzero(found["in_view"])} == {item.name for item in view["seen"]}
        assert list(PALETTES)[found["place"]] == view["place"]
        for item in view["seen"]:
            number = CLASSES.index(item.name)
            np.testing.assert_allclose(found["position"][number], item.position, rtol=1e-6)
            assert found["envelope"][number] == np.float32(item.envelope)
        np.testing.assert_array_equal(found["fields"], view["viewpoint"][0, 2:])


def test_the_truth_of_audio_is_that_of_its_scene(config: Config):
    audio = SceneAudio(config.mel, 3)[5]
    scene = make_scene_2(3, 5)
    found = judge_audio.whole(audio, RANDOM)
    assert {CLASSES[number] for number in np.flatnonzero(found["heard"])} == {item.name for item in scene.objects}
    assert found["envelope"].shape == (50, len(CLASSES))
    for item in scene.objects:
        wanted = loudness_envelope(item, np.arange(50) * 0.04)
        np.testing.assert_allclose(found["envelope"][:, CLASSES.index(item.name)], wanted, atol=1e-6)


def test_the_angle_between_positions_is_that_between_their_directions():
    one, other = RANDOM.uniform(-1, 1, (2, 5, 2)).astype(np.float32)
    viewpoint = np.array([2.0, -0.7, 1.1, 0.8])
    rays = [position_directions(place, viewpoint) for place in (one, other)]
    wanted = np.degrees(np.arccos(np.sum(rays[0] * rays[1], axis=-1)))
    fields = jnp.asarray(viewpoint[None, 2:], jnp.float32)
    np.testing.assert_allclose(judge_video.between(one[None], other[None], fields)[0], wanted, rtol=1e-3)


def test_scores_are_f1_and_correlation_over_all_batches():
    found, there = RANDOM.uniform(size=(2, 20, 6)) < np.array([0.3, 0.5])[:, None, None]
    x, y = RANDOM.uniform(size=(2, 20))
    weight = (RANDOM.uniform(size=20) < 0.7).astype(np.float32)
    totals: dict[str, float] = {}
    for rows in (slice(0, 8), slice(8, 20)):
        sums = class_sums(jnp.asarray(found[rows]), jnp.asarray(there[rows]))
        sums |= envelope_sums(*(jnp.asarray(side[rows], jnp.float32) for side in (x, y, weight)))
        totals = {name: totals.get(name, 0.0) + float(value) for name, value in sums.items()}
    hits = (found & there).sum()
    precision, recall = hits / found.sum(), hits / there.sum()
    assert f1(totals) == pytest.approx(2 * precision * recall / (precision + recall))
    assert agreement(totals) == pytest.approx(np.corrcoef(x[weight > 0], y[weight > 0])[0, 1], abs=1e-5)
    assert f1({"hits": 0, "found": 0, "there": 0}) == 0
    assert agreement({**totals, "judged_squares": totals["judged"] ** 2 / totals["envelopes"]}) == 0


@pytest.mark.parametrize("part", ["judge_video", "judge_audio"])
def test_examples_are_blurred_noisy_and_the_same_for_the_same_number(part: Any, config: Config):
    objective, data = make_objective(part, config), SceneData(5)
    rows, again = (data.rows(objective, config)[0] for _ in range(2))
    for number in (0, 3):
        jax.tree.map(np.testing.assert_array_equal, rows(number), again(number))
    kind = "frames" if part == "judge_video" else "mel"
    # Another use of the same scene, changed in another way.
    first, other = rows(0), rows(config.train.batch_size)
    assert (first[kind] != other[kind]).any()
    labels = set(first) - {kind, "sample_id"}
    jax.tree.map(
        np.testing.assert_array_equal, {name: first[name] for name in labels}, {name: other[name] for name in labels}
    )
    assert first[kind].dtype == other[kind].dtype == objective.whole(_arrays(part, config), RANDOM)[kind].dtype


def _arrays(part: str, config: Config) -> Any:
    return SceneStills(5, 16, 16, 1.0)[0] if part == "judge_video" else SceneAudio(config.mel, 5, 1.0)[0]


def test_datasets_have_no_truth_to_learn_from(config: Config, tiny: Config):
    for part in ("judge_video", "judge_audio"):
        objective = make_objective(part, config)
        with pytest.raises(DatasetError, match="lacks .*which scenes have: give --scenes"):
            RecordData(tiny_world.dataset(tiny)).rows(objective, config)


def test_settings_that_do_not_fit_are_refused(config: Config):
    with pytest.raises(ConfigError, match="give multiples of 8"):
        with_part(config, "pretrain.judge_video", widths=(8, 12))
    with pytest.raises(ConfigError, match="size=10 is no multiple of 4"):
        with_part(config, "pretrain.judge_video", size=10)
