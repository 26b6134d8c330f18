"""The PyTorch peer that the training benchmark races is the same step: predictions, loss, gradients and an update."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_world
from einops import rearrange

from con360av_jax.config import Config
from con360av_jax.denoiser import joint_model
from con360av_jax.diffusion.loss import denoising_loss
from con360av_jax.models.functional import Params, flatten
from con360av_jax.train.optimizer import make_optimizer, merge

torch = pytest.importorskip("torch", reason="the peer is written in PyTorch")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import torch_step  # noqa: E402
import train_step  # noqa: E402

# After one update of AdamW, which divides by the gradient's size: rounding decides where that is next to nothing.
UPDATED = 1e-4


@dataclass(frozen=True)
class Found:
    """What one side makes of the same weights and draws; arrays are in our layout and under our paths."""

    noise: dict[str, np.ndarray]
    loss: float
    gradients: dict[str, np.ndarray]
    updated_loss: float


def with_attention_once(config: Config) -> Config:
    """`config` with text attention on one level beside the middle blocks: there is less to compile."""

    def spare(unet: Any) -> Any:
        levels = tuple(replace(level, attention=number == 2) for number, level in enumerate(unet.levels))
        return replace(unet, levels=levels)

    model = config.model
    model = replace(model, unet_audio=spare(model.unet_audio), unet_video=spare(model.unet_video))
    return tiny_world.with_train(replace(config, name="peer", model=model), trainable="connectors")


def half_of_each(config: Config) -> tuple[Any, jax.Array]:
    """Draws of a batch of two, of which one has maps and the other a clean estimate."""
    drawn, maps = train_step.draws(config)
    first = jnp.array([True, False])
    return drawn._replace(map_mask=first, uses_estimate={"audio": ~first, "video": ~first}), maps


def ours(config: Config, state: Any, frozen: Params) -> Found:
    apply, _ = joint_model(config)
    drawn, maps = half_of_each(config)
    optimizer = make_optimizer(config.train)

    @jax.jit
    def run(params: Params, opt_state: Any, frozen: Params) -> Any:
        def loss(params: Params) -> Any:
            return denoising_loss(apply, merge(params, frozen), drawn, maps, config.schedule, config.train)[0]

        value, gradients = jax.value_and_grad(loss)(params)
        updates, _ = optimizer.update(gradients, opt_state, params)
        after: Any = optax.apply_updates(params, updates)
        return value, gradients, after

    @jax.jit
    def predict(params: Params, frozen: Params) -> Any:
        given = (drawn.noise, dict.fromkeys(drawn.noise, drawn.timestep), drawn.text, drawn.clean)
        return apply(merge(params, frozen), *given, drawn.connector_timesteps, drawn.clean, maps, drawn.map_mask)

    with tiny_world.quick_compiles():
        value, gradients, after = run(state.params, state.opt_state, frozen)
        updated = run(after, state.opt_state, frozen)[0]
        noise = predict(state.params, frozen)
    return Found(
        noise={name: np.asarray(array) for name, array in noise.items()},
        loss=float(value),
        gradients={path: np.asarray(leaf) for path, leaf in flatten(gradients).items()},
        updated_loss=float(updated),
    )


def theirs(config: Config, model: Any) -> Found:
    drawn, maps = half_of_each(config)
    given, panorama = torch_step.same_draws(drawn), torch_step.to_torch_layout("maps", np.asarray(maps))
    with torch.no_grad():
        noise = model(
            given.noise,
            dict.fromkeys(given.noise, given.timestep),
            given.text,
            given.clean,
            given.connector_timesteps,
            given.clean,
            panorama,
            given.map_mask,
        )
    loss, gradients = train_step.peer_gradients(config, model, "cpu", drawn, maps)
    objective = torch_step.Objective(config, model, "cpu")
    torch_step.TrainStep(config, model, objective).update(given, panorama)
    with torch.no_grad():
        updated = objective.loss(given, panorama)
    back = {"audio": "b c t m -> b t m c", "video": "b c f h w -> b f h w c"}
    return Found(
        noise={name: rearrange(tensor.numpy(), back[name]) for name, tensor in noise.items()},
        loss=loss,
        gradients=gradients,
        updated_loss=float(updated),
    )


@pytest.fixture(scope="module")
def both(tiny: Config) -> tuple[Found, Found]:
    config = with_attention_once(tiny)
    model = train_step.build(config)
    # The arrays that JAX makes of torch's memory are copies: the peer's update does not reach them.
    state, frozen = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), train_step.start(config, model))
    return ours(config, state, frozen), theirs(config, model)


def test_predictions_are_the_same(both: tuple[Found, Found]):
    for name, wanted in both[1].noise.items():
        assert np.linalg.norm(both[0].noise[name] - wanted) <= 1e-4 * np.linalg.norm(wanted), name


def test_loss_of_the_same_draws_is_the_same(both: tuple[Found, Found]):
    assert both[0].loss == pytest.approx(both[1].loss, rel=1e-5)


def test_gradients_of_all_that_learns_are_the_same(both: tuple[Found, Found]):
    found, wanted = (side.gradients for side in both)
    assert found.keys() == wanted.keys() and len(wanted) > 300
    assert all(np.any(array) for path, array in wanted.items() if path.startswith(("map_encoder", "film")))
    difference = train_step.errors((1.0, found), (1.0, wanted))["gradients"]
    assert difference <= 1e-3


def test_one_update_leads_to_the_same_loss(both: tuple[Found, Found]):
    assert both[1].updated_loss != pytest.approx(both[1].loss, rel=10 * UPDATED)
    assert both[0].updated_loss == pytest.approx(both[1].updated_loss, rel=UPDATED)


def test_moving_average_and_second_step_follow_the_settings(tiny: Config):
    config = tiny_world.with_train(tiny, ema_decay=0.75)
    weight = torch.nn.Parameter(torch.ones(3))

    class Model:
        def trained(self) -> Any:
            return iter([("weight", weight)])

    class Square:
        def loss(self, drawn: Any, maps: Any) -> Any:
            return (weight**2).sum()

    model: Any = Model()
    objective: Any = Square()
    step = torch_step.TrainStep(config, model, objective)
    assert float(step.update(None, None)) == 3.0  # pyright: ignore[reportArgumentType]
    assert torch.allclose(step.average[0], 0.75 + 0.25 * weight.detach()) and weight[0] < 1
