"""Selection of trained parameters, the optimizer, and training steps of a toy model on one and on eight devices."""

from dataclasses import replace
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from con360av_jax.config.settings import MeshConfig, PerModality, TrainConfig
from con360av_jax.diffusion.loss import dropout_rates
from con360av_jax.errors import ConfigError
from con360av_jax.models.functional import Params, flatten
from con360av_jax.sharding import batch_sharding, make_mesh, replicate, shardings_for
from con360av_jax.train.optimizer import learning_rate, make_optimizer, merge, select
from con360av_jax.train.stacking import members
from con360av_jax.train.state import init_state, state_shardings
from con360av_jax.train.step import make_train_step, newest_share
from tests.support.toy_model import BATCH, NULL_TEXT, RECIPE, SCHEDULES, WIDTH, toy, toy_batch, toy_params

KEY = jax.random.key(11)
DROPOUT = dropout_rates(RECIPE)


def _start(config: TrainConfig = RECIPE):
    trainable, frozen = select(toy_params(), config.trainable)
    return init_state(trainable, make_optimizer(config)), frozen


@pytest.fixture(scope="module")
def trained():
    """States and metrics of three steps, the first state included."""
    step = jax.jit(make_train_step(toy, SCHEDULES, RECIPE))
    state, frozen = _start()
    history = [(state, {})]
    for number in range(3):
        history.append(step(history[-1][0], frozen, toy_batch(number), NULL_TEXT, DROPOUT, KEY))
    return step, frozen, history


@pytest.mark.parametrize(
    ("trainable", "learns"),
    [
        ("control", {"map_encoder", "film"}),
        ("connectors", {"map_encoder", "film", "connector", "environment_encoder"}),
        ("motion", {"map_encoder", "film", "connector", "environment_encoder", "motion_modules"}),
        (r"film/.*|.*/motion_modules/.*", {"film", "motion_modules"}),
        ("all", {"map_encoder", "film", "connector", "environment_encoder", "motion_modules", "mid"}),
    ],
)
def test_selection_takes_the_named_parts_and_loses_nothing(trainable, learns: set[str]):
    params = toy_params()
    chosen, frozen = select(params, trainable)
    for path in flatten(params):
        assert (path in flatten(chosen)) == any(part in learns for part in path.split("/"))
        assert (path in flatten(chosen)) != (path in flatten(frozen))
    assert jax.tree.structure(merge(chosen, frozen)) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, merge(chosen, frozen), params)


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        ("control", "matches none of the 1 parameters"),
        (
            "conectors",
            "motion, all or a regular expression for whole paths such as unet/kernel",
        ),
        ("unet/(", "no regular expression"),
    ],
)
def test_selecting_nothing_is_refused(trainable: str, message: str):
    with pytest.raises(ConfigError, match=message):
        select({"unet": {"kernel": jnp.zeros((2,))}}, trainable)


def test_a_parameter_cannot_be_trained_and_frozen():
    params = {"unet": {"kernel": jnp.zeros((2,))}}
    with pytest.raises(ConfigError, match="unet/kernel"):
        merge(params, params)


@pytest.mark.parametrize(
    ("warmup", "rates"), [(0, [1.0, 1.0, 1.0]), (1, [1.0, 1.0, 1.0]), (4, [0.25, 0.5, 0.75, 1.0, 1.0])]
)
def test_learning_rate_rises_then_stays(warmup: int, rates: list[float]):
    rate = learning_rate(TrainConfig(learning_rate=2.0, warmup_steps=warmup))
    np.testing.assert_allclose(
        [np.asarray(rate(count)) for count in range(len(rates))], [2.0 * r for r in rates], rtol=1e-6
    )


def test_cosine_rate_falls_to_zero_at_its_last_update():
    rate = learning_rate(TrainConfig(learning_rate=2.0, warmup_steps=4, schedule="cosine", decay_steps=12))
    found = np.array([rate(count) for count in range(15)])
    np.testing.assert_allclose(found[:4], [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(found[4:], 1 + np.cos(np.pi * np.minimum(np.arange(11) / 8, 1)), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 6, "accumulate": 4}, "does not divide into accumulate=4"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"steps": 10, "epochs": 2}, "steps=10 and epochs=2 are both given: set one of them to 0"),
        ({"saliency_dropout": 1.5}, "saliency_dropout=1.5 is not a share: give a number from 0 to 1"),
        ({"steps": 0}, "steps=0 and epochs=0: give a positive number of one of them"),
        ({"steps": 0, "epochs": -1}, "steps=0 and epochs=-1: give a positive number"),
        ({"loss_weight": PerModality(audio=0.0, video=0.0)}, "loss_weight=.*: give numbers of 0 or more, at least one"),
        ({"loss_weight": PerModality(audio=2.0, video=-1.0)}, "loss_weight=.*: give numbers of 0 or more"),
        ({"min_snr_gamma": -1.0}, "min_snr_gamma=-1.0 is negative; 0 turns the weighting off"),
        ({"schedule": "cosine", "decay_steps": 10, "warmup_steps": 10}, "before warmup_steps=10 are over"),
    ],
)
def test_recipes_that_do_not_fit_together_are_refused(changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**changes)


def test_a_batch_in_parts_gives_the_update_of_the_whole(trained):
    _, frozen, history = trained
    config = replace(RECIPE, batch_size=BATCH, accumulate=2)
    state, metrics = jax.jit(make_train_step(toy, SCHEDULES, config))(
        history[0][0], frozen, toy_batch(0), NULL_TEXT, DROPOUT, KEY
    )
    for name, value in history[1][1].items():
        # Float32 sums in another order.
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    for path, leaf in flatten(state.params).items():
        np.testing.assert_allclose(leaf, flatten(history[1][0].params)[path], atol=1e-4, err_msg=path)


def test_first_update_is_adamw_of_the_clipped_gradient():
    """Step one of Adam: the gradient over its own size, plus decay; clipping shrinks it but keeps its direction."""
    config = TrainConfig(learning_rate=0.1, weight_decay=0.5, clip_norm=1e-6)
    optimizer = make_optimizer(config)
    params, gradient = {"a": jnp.array([2.0, -1.0])}, {"a": jnp.array([3.0, 4.0])}
    updates = cast(Params, optimizer.update(gradient, optimizer.init(params), params)[0])
    clipped = np.array([3.0, 4.0]) / 5.0 * 1e-6
    wanted = -0.1 * (clipped / (np.abs(clipped) + 1e-8) + 0.5 * np.array([2.0, -1.0]))
    np.testing.assert_allclose(updates["a"], wanted, rtol=1e-4)


def test_step_changes_everything_trainable_and_counts(trained):
    _, _, history = trained
    before, after = history[0][0], history[3][0]
    assert int(after.step) == 3
    for path, leaf in flatten(after.params).items():
        assert not np.array_equal(leaf, flatten(before.params)[path]), path


def test_average_follows_the_parameters_at_its_rate(trained):
    _, _, history = trained
    jax.tree.map(np.testing.assert_array_equal, history[1][0].ema, history[1][0].params)
    for number, decay in ((1, 2 / 11), (2, 3 / 12)):
        before, after = history[number][0].ema, history[number + 1][0]

        def mixed(old: jax.Array, new: jax.Array, decay: float = decay) -> np.ndarray:
            return decay * np.asarray(old) + (1 - decay) * np.asarray(new)

        wanted = jax.tree.map(mixed, before, after.params)
        jax.tree.map(lambda found, given: np.testing.assert_allclose(found, given, rtol=1e-5), after.ema, wanted)


def test_a_young_average_lies_near_the_parameters():
    """After 200 updates of one direction the average lags behind by a tenth of the way, not by all of it."""
    config = replace(RECIPE, ema_decay=0.9999, learning_rate=1e-5)
    step = jax.jit(make_train_step(toy, SCHEDULES, config))
    (start, frozen), batch = _start(config), toy_batch()
    state = start
    for _ in range(200):
        # With the draws of step 0 each time all gradients are alike.
        state, _ = step(replace(state, step=jnp.zeros((), jnp.int32)), frozen, batch, NULL_TEXT, DROPOUT, KEY)

    def distance(one: Params, other: Params) -> float:
        return float(optax.tree.norm(jax.tree.map(jnp.subtract, one, other)))

    assert distance(state.params, state.ema) < 0.12 * distance(state.params, start.params)


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_decays_of_the_average_are_those_of_diffusers(decay: float):
    diffusers = pytest.importorskip("diffusers.training_utils", reason="wants the original")
    original = diffusers.EMAModel([], decay=decay)
    for updates in (0, 1, 2, 7, 8, 9, 1000, 89_989, 89_991, 1_000_000):
        # diffusers counts the update that is being made, too.
        wanted = 1 - original.get_decay(updates + 1)
        found = newest_share(TrainConfig(ema_decay=decay), jnp.int32(updates))
        np.testing.assert_allclose(found, wanted, rtol=1e-6, err_msg=str(updates))


def test_no_decay_keeps_no_average():
    config = replace(RECIPE, ema_decay=0.0)
    state, frozen = _start(config)
    after, _ = jax.jit(make_train_step(toy, SCHEDULES, config))(state, frozen, toy_batch(), NULL_TEXT, DROPOUT, KEY)
    jax.tree.map(np.testing.assert_array_equal, after.ema, after.params)


def test_frozen_parameters_have_no_optimizer_state(trained):
    _, frozen, history = trained
    state = history[-1][0]
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if jnp.ndim(leaf) > 0)
    assert moments == 2 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert len(jax.tree.leaves(frozen)) == 3


def test_each_step_draws_its_own_noise(trained):
    step, frozen, history = trained
    state = history[1][0]
    again = step(state, frozen, toy_batch(1), NULL_TEXT, DROPOUT, KEY)[1]
    later = step(replace(state, step=state.step + 1), frozen, toy_batch(1), NULL_TEXT, DROPOUT, KEY)[1]
    np.testing.assert_array_equal(again["loss"], history[2][1]["loss"])
    assert not np.array_equal(again["loss"], later["loss"])


def test_metrics_are_float32_on_the_device(trained):
    metrics = trained[2][-1][1]
    assert {name: value.dtype for name, value in metrics.items()} == dict.fromkeys(metrics, jnp.float32)
    assert {"loss", "loss/audio", "loss/video", "gradient_norm", "learning_rate"} <= set(metrics)
    assert float(metrics["gradient_norm"]) > 0


def test_training_lowers_the_loss(trained):
    """With one batch and fixed random numbers the loss of a linear model falls."""
    step, frozen, history = trained
    state = history[0][0]
    losses = []
    for _ in range(30):
        state, metrics = step(
            replace(state, step=jnp.zeros((), jnp.int32)), frozen, toy_batch(), NULL_TEXT, DROPOUT, KEY
        )
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]


def test_frozen_weights_reach_the_model_in_compute_dtype_and_trained_ones_and_norms_in_float32():
    seen = {}

    def watching(params, *inputs):
        seen.update({path: leaf.dtype for path, leaf in flatten(params).items()})
        return toy(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), *inputs)

    config = replace(RECIPE, trainable="control", compute_dtype="bfloat16")
    state, frozen = _start(config)
    jax.eval_shape(make_train_step(watching, SCHEDULES, config), state, frozen, toy_batch(), NULL_TEXT, DROPOUT, KEY)
    for path, dtype in seen.items():
        wide = path.startswith(("map_encoder", "film")) or path == "unet/audio/mid/norm/bias"
        assert dtype == (jnp.float32 if wide else jnp.bfloat16), path


def test_eight_devices_give_the_training_of_one(trained):
    _, _, history = trained
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    state, frozen = _start()
    places = state_shardings(state, mesh)
    step = jax.jit(make_train_step(toy, SCHEDULES, RECIPE), donate_argnums=0, out_shardings=(places, replicate(mesh)))
    state = jax.device_put(state, places)
    frozen = jax.device_put(frozen, shardings_for(frozen, mesh))
    for number in range(3):
        batch = jax.device_put(toy_batch(number), batch_sharding(mesh))
        state, metrics = step(state, frozen, batch, NULL_TEXT, DROPOUT, KEY)
        np.testing.assert_allclose(float(metrics["loss"]), float(history[number + 1][1]["loss"]), rtol=1e-4)
    kernel = state.params["unet"]["video"]["motion_modules"]["to_out"]["kernel"]
    assert {part.data.shape for part in kernel.addressable_shards} == {(WIDTH // 2, WIDTH // 2)}
    # Adam divides by the gradient's own size, so a gradient near zero may turn rounding into a small step.
    for path, leaf in flatten(state.params).items():
        np.testing.assert_allclose(leaf, flatten(history[-1][0].params)[path], atol=1e-3)


def test_optimizer_state_lies_where_its_parameters_lie():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    state, _ = _start()
    places = state_shardings(jax.eval_shape(lambda: state), mesh)
    assert jax.tree.structure(places) == jax.tree.structure(state)
    specs = [leaf.spec for leaf in jax.tree.leaves(places.params)]
    moments = [leaf.spec for leaf in jax.tree.leaves(places.opt_state) if len(leaf.spec) > 0]
    assert len(set(specs)) > 1
    of_parameters = {path: leaf.spec for path, leaf in flatten(places.params).items()}
    wanted = [P(None, *of_parameters[paths[0]]) for paths in members(state.params).values()]
    assert sorted(map(str, moments)) == sorted(map(str, wanted * 2))
