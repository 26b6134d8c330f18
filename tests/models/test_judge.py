"""The judges against their equations, on inputs of any size or length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.models import functional
from con360av_jax.models.functional import Params
from con360av_jax.models.judge import (
    STEP,
    AudioJudge,
    Heard,
    Seen,
    VideoJudge,
    cell_of,
    clip_features,
    heard_logits,
    resized,
)

CLASSES, PLACES, SIDE = 3, 4, 4
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def video() -> tuple[functional.nnx.GraphDef, Params]:
    judge = VideoJudge((8, 16), 8, CLASSES, PLACES, rngs=functional.KeyStream(jax.random.key(0)))
    return functional.split(judge)


def seen(video: tuple, params: Params, frames: np.ndarray) -> Seen:
    return functional.apply(video[0], params, jnp.asarray(frames))


def test_position_is_the_mean_of_cells_plus_offsets_weighted_by_attention(video: tuple):
    """Equations (1) to (4) stated a second time over the outputs of the head."""
    frames = RANDOM.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    found = seen(video, video[1], frames)
    module = functional.merge(*video)
    x = jnp.asarray(frames)
    for stage in module.stages:
        x = stage(x)
    head = np.asarray(module.head(x), np.float64).reshape(2, SIDE * SIDE, 4, CLASSES)
    score, right, up, envelope = np.moveaxis(head, 2, 0)
    attention = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    middles = np.array([-0.75, -0.25, 0.25, 0.75])
    across, height = np.tile(middles, SIDE)[None, :, None], np.repeat(-middles, SIDE)[None, :, None]
    wanted = np.stack([(attention * (across + right)).sum(1), (attention * (height + up)).sum(1)], axis=-1)
    np.testing.assert_allclose(found.position, wanted, atol=1e-5)
    np.testing.assert_allclose(found.envelope, (attention * envelope).sum(1), atol=1e-5)
    np.testing.assert_allclose(found.in_view, np.log(np.exp(score).mean(1)), atol=1e-5)
    np.testing.assert_allclose(found.features, np.asarray(x).mean((1, 2)), atol=1e-6)


def test_frames_of_other_sizes_are_resized_and_absolute_colour_counts_for_the_place(video: tuple):
    frames = RANDOM.uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    small = np.asarray(resized(jnp.asarray(frames), 8))
    jax.tree.map(np.testing.assert_array_equal, seen(video, video[1], frames), seen(video, video[1], small))
    np.testing.assert_allclose(resized(jnp.full((1, 6, 6, 3), 0.25), 4), 0.25, rtol=1e-6)
    # Two even frames look alike to group norms, whatever their colour.
    grey, dark = (seen(video, video[1], np.full((1, 8, 8, 3), value, np.float32)) for value in (0.0, -0.9))
    assert np.abs(grey.place - dark.place).max() > 1e-2


def test_a_position_lies_in_the_cell_around_it():
    centres = [(-0.75 + 0.5 * column, 0.75 - 0.5 * row) for row in range(4) for column in range(4)]
    np.testing.assert_array_equal(cell_of(jnp.asarray(centres), 4), np.arange(16))
    np.testing.assert_array_equal(cell_of(jnp.asarray([(1.0, 1.0), (-1.0, -1.0), (1.5, -1.5)]), 4), [3, 12, 15])


def test_audio_is_judged_at_any_length_in_steps_and_as_a_whole():
    judge = AudioJudge((8, 8, 8, 8), 8, 16, CLASSES, rngs=functional.KeyStream(jax.random.key(1)))
    for frames in (20, 37):
        found: Heard = judge(jnp.asarray(RANDOM.normal(-6, 3, (2, frames, 16)), jnp.float32))
        steps = -(-frames // STEP)
        assert found.scores.shape == found.envelope.shape == (2, steps, CLASSES)
        assert found.features.shape == (2, steps, 8)


def test_a_class_is_heard_as_loud_in_a_long_clip_as_in_a_short_one():
    scores = RANDOM.normal(0, 2, (1, 6, CLASSES)).astype(np.float32)
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(heard_logits(jnp.asarray(scores)), (weights * scores).sum(axis=1), rtol=1e-5)
    twice = np.concatenate([scores, scores], axis=1)
    np.testing.assert_allclose(heard_logits(jnp.asarray(twice)), heard_logits(jnp.asarray(scores)), rtol=1e-5)


def test_features_of_a_clip_are_their_mean_and_change():
    features = np.array([[1, 0], [3, 0], [2, 0]], np.float32)
    np.testing.assert_allclose(clip_features(features), [2, 0, 1.5, 0])
    np.testing.assert_allclose(clip_features(features[:1]), [1, 0, 0, 0])
