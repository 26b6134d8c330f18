"""Contrastive training of text encoders: the loss against PyTorch's cross-entropy, what is learnt, and the base."""

from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from con360av_jax.base.pretrained import Pretrained, open_pretrained
from con360av_jax.base.random import create_random
from con360av_jax.cli import main
from con360av_jax.config.files import save_config
from con360av_jax.config.pretraining import Part
from con360av_jax.config.settings import Config
from con360av_jax.data.transforms import collate
from con360av_jax.models.functional import flatten
from con360av_jax.sharding import make_mesh
from con360av_jax.train.encode import caption_tokens
from con360av_jax.train.loop import on_mesh
from con360av_jax.train.metrics import read_lines
from con360av_jax.train.objectives.choose import make_objective
from con360av_jax.train.objectives.text import at_end, contrast, same_captions
from con360av_jax.train.optimizer import merge
from con360av_jax.train.pretrain import compiled_step, load_state, pretrain
from con360av_jax.train.pretraining_data import SceneData
from con360av_jax.train.trained_parts import open_trained
from tests.support import tiny_world
from tests.support.tiny_world import lean, leaves_equal, with_part, with_train

SCENES = SceneData(5)
TEXTS: tuple[Part, ...] = ("text_video", "text_audio")


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    with tiny_world.quick_compiles():
        yield


@pytest.fixture(scope="module")
def small(tiny: Config) -> Config:
    config = with_part(lean(tiny), "pretrain", validation_batches=2)
    for part in TEXTS:
        config = with_part(config, f"pretrain.{part}", widths=(8, 8), size=16)
    return with_train(config, trainable="all", batch_size=8, steps=2, checkpoint_every=2, loader_threads=0)


@pytest.fixture(scope="module")
def base(small: Config, tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return create_random(tmp_path_factory.mktemp("text") / "base", small, seed=3)


def test_the_loss_is_the_mean_cross_entropy_of_both_directions():
    scores = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    given, own = torch.tensor(scores), torch.arange(5)
    entropy = torch.nn.functional.cross_entropy
    wanted = (entropy(given, own) + entropy(given.T, own)) / 2
    found = contrast(jnp.asarray(scores), same_captions(jnp.arange(10).reshape(5, 2)))
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)


def test_rows_with_the_same_caption_are_not_told_apart():
    ids = jnp.array([[1, 2], [3, 4], [1, 2]])
    scores = np.random.default_rng(1).standard_normal((3, 3)).astype(np.float32)
    blind = scores.copy()
    blind[0, 2], blind[2, 0] = 1e6, -1e6
    same = same_captions(ids)
    assert np.asarray(same).tolist() == [[False, False, True], [False] * 3, [True, False, False]]
    assert float(contrast(jnp.asarray(scores), same)) == float(contrast(jnp.asarray(blind), same))
    # Nothing to tell apart: neither a loss nor a gradient.
    alone = jax.value_and_grad(contrast)(jnp.asarray(scores[:1, :1]), jnp.zeros((1, 1), bool))
    assert [float(leaf.squeeze()) for leaf in alone] == [0.0, 0.0]


def test_a_caption_is_read_at_its_end(base: Pretrained):
    tokens = caption_tokens(base)("a red barrel ahead")["video"]
    states = jnp.arange(len(tokens["ids"]), dtype=jnp.float32)[None, :, None]
    last = int(at_end(states, jnp.asarray(tokens["mask"])[None])[0, 0])
    end = tokens["ids"].max()  # of all tokens of CLIP, the end has the highest number
    assert tokens["ids"][last] == end and end not in tokens["ids"][:last]


@pytest.mark.parametrize("part", TEXTS)
def test_captions_find_their_views_and_audio(part: Part, small: Config, base: Pretrained):
    config = with_train(small, learning_rate=1e-2, clip_norm=10.0, ema_decay=0.0)
    objective, mesh = make_objective(part, config), make_mesh(config.mesh)
    rows, _ = SCENES.rows(objective, config, caption_tokens(base))
    batch = on_mesh(cast(Any, collate([rows(number) for number in range(8)])), mesh)
    state, frozen = load_state(config, objective, base, mesh)
    assert {path.split("/")[0] for path in flatten(state.params)} == {part, part.replace("text", "tower")}
    measure, step = jax.jit(objective.measure), compiled_step(config, objective, mesh, state)
    for _ in range(100):
        state, _ = step(state, frozen, batch, jax.random.key(0))
    sums, _ = measure(merge(state.params, frozen), batch)
    found = objective.summarise({name: float(value) for name, value in sums.items()})
    assert found["chance"] < 0.3 and found["retrieval"] > 0.8


def test_the_text_encoder_comes_into_a_base_and_its_tower_does_not(small: Config, base: Pretrained, tmp_path: Path):
    run, config, made = tmp_path / "run", tmp_path / "small.json", tmp_path / "made"
    assert pretrain(small, "text_audio", base.folder, SCENES, run) is None
    assert {"loss", "retrieval", "chance"} <= read_lines(run / "validation.jsonl")[-1].keys()
    save_config(small, config)
    assert (
        main(["init", "--config", str(config), "--seed", "3", "--part", f"text_audio={run}", "--out", str(made)]) == 0
    )
    trained = open_trained(run, small).params
    assert set(trained) == {"text_audio"}
    found = open_pretrained(made, verify=True)
    assert leaves_equal(found.params("text_audio"), trained["text_audio"])
    assert not leaves_equal(found.params("text_audio"), base.params("text_audio"))
    assert leaves_equal(found.params("text_video"), base.params("text_video"))
