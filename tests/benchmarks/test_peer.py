"""The PyTorch training step of the benchmark equals ours: predictions, loss, gradients and updates."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from einops import rearrange

from con360av_jax.config.settings import Config
from con360av_jax.denoiser import DenoiserInputs, Latents
from con360av_jax.diffusion.loss import denoising_loss
from con360av_jax.models.functional import Params, flatten
from con360av_jax.models.joint import joint_model
from con360av_jax.train.optimizer import make_optimizer, merge
from con360av_jax.train.step import newest_share
from tests.support import tiny_world

torch = pytest.importorskip("torch", reason="the peer is written in PyTorch")

from benchmarks import train_step  # noqa: E402
from benchmarks.peer import step as torch_step  # noqa: E402

# Where a feature's mean over space is next to nothing throughout a clip, dividing by its length along time magnifies
# rounding: with some seeds torch's own float32 and float64 gradients differ by 3e-3. With this one by 4e-6.
WELL_CONDITIONED = 2
OUR_LAYOUTS = {"audio": "b c t m -> b t m c", "video": "b c f h w -> b f h w c"}


@dataclass(frozen=True)
class Found:
    """Result of one side for the same weights and draws; arrays are in our layout and under our paths."""

    noise: list[dict[str, np.ndarray]]
    """Predictions of the pass for clean estimates and of the one that learns."""
    loss: float
    gradients: dict[str, np.ndarray]


def with_attention_once(config: Config) -> Config:
    """`config` with text attention on one level beside the middle blocks: there is less to compile."""

    def spare(unet: Any) -> Any:
        levels = tuple(replace(level, attention=number == 2) for number, level in enumerate(unet.levels))
        return replace(unet, levels=levels)

    model = config.model
    model = replace(model, unet_audio=spare(model.unet_audio), unet_video=spare(model.unet_video))
    return tiny_world.with_train(replace(config, name="peer", model=model), trainable="connectors")


def half_of_each(config: Config) -> Any:
    """Draws of a batch of two, of which one has maps and the other a clean estimate."""
    drawn = train_step.draws(config)
    first = jnp.array([True, False])
    return drawn._replace(map_mask=first, uses_estimate={"audio": ~first, "video": ~first})


def ours(config: Config, state: Any, frozen: Params) -> Found:
    denoiser, _ = joint_model(config, config.train.compute_dtype)
    drawn = half_of_each(config)

    @jax.jit
    def run(params: Params, frozen: Params) -> Any:
        def loss(params: Params) -> Any:
            seen: list[Any] = []

            def watched(params: Params, inputs: DenoiserInputs) -> Latents:
                seen.append(denoiser(params, inputs))
                return seen[-1]

            value, _ = denoising_loss(watched, merge(params, frozen), drawn, config.schedule, config.train)
            return value, seen

        return jax.value_and_grad(loss, has_aux=True)(params)

    with tiny_world.quick_compiles():
        (loss, noise), gradients = run(state.params, frozen)
    return Found(
        noise=[{name: np.asarray(array) for name, array in one.items()} for one in noise],
        loss=float(loss),
        gradients={path: np.asarray(leaf) for path, leaf in flatten(gradients).items()},
    )


def theirs(config: Config, model: Any) -> Found:
    noise = []

    def watch(_: Any, __: Any, output: dict[str, Any]) -> None:
        arrays = {name: tensor.detach().numpy() for name, tensor in output.items()}
        noise.append({name: rearrange(array, OUR_LAYOUTS[name]) for name, array in arrays.items()})

    model.register_forward_hook(watch)
    loss, gradients = train_step.peer_gradients(config, model, "cpu", half_of_each(config))
    return Found(noise=noise, loss=loss, gradients=dict(gradients))


@pytest.fixture(scope="module")
def both(tiny: Config) -> tuple[Found, Found]:
    config = with_attention_once(tiny)
    threads = torch.get_num_threads()
    # Layers this small spend their time on waking threads.
    torch.set_num_threads(1)
    try:
        model = train_step.build(config, WELL_CONDITIONED)
        found = ours(config, *train_step.start(config, model)), theirs(config, model)
    finally:
        torch.set_num_threads(threads)
    return found


def test_predictions_are_the_same(both: tuple[Found, Found]):
    for found, wanted in zip(both[0].noise, both[1].noise, strict=True):
        for name in wanted:
            assert np.linalg.norm(found[name] - wanted[name]) <= 1e-4 * np.linalg.norm(wanted[name]), name
    estimating, learning = (one["video"] for one in both[1].noise)
    same = [np.allclose(one, other, atol=1e-5) for one, other in zip(estimating, learning, strict=True)]
    assert same == [True, False]


def test_loss_of_the_same_draws_is_the_same(both: tuple[Found, Found]):
    assert both[0].loss == pytest.approx(both[1].loss, rel=1e-5)


def test_gradients_of_all_that_learns_are_the_same(both: tuple[Found, Found]):
    found, wanted = (side.gradients for side in both)
    assert found.keys() == wanted.keys()
    assert {path.split("/")[0] for path in wanted} == {"connector", "environment_encoder", "film", "map_encoder"}
    assert all(np.any(array) for path, array in wanted.items() if path.startswith(("map_encoder", "film")))
    assert train_step.errors((1.0, found), (1.0, wanted))["gradients"] <= 1e-4


class Quadratic:
    """Stands in for a model and its objective: the sum of w^3."""

    def __init__(self, start: np.ndarray):
        self.weight = torch.nn.Parameter(torch.tensor(start))

    def trained(self) -> Any:
        return iter([("weight", self.weight)])

    def loss(self, drawn: object) -> Any:
        return (self.weight**3).sum()


@pytest.mark.parametrize("clip_norm", [0.1, 100.0])
def test_updates_and_moving_average_are_the_same(tiny: Config, clip_norm: float):
    config = tiny_world.with_train(tiny, ema_decay=0.75, weight_decay=0.1, clip_norm=clip_norm, learning_rate=0.1)
    start = np.linspace(-1.0, 2.0, 7, dtype=np.float32)
    model: Any = Quadratic(start)
    step = torch_step.TrainStep(config, model, model)
    optimizer, params = make_optimizer(config.train), {"w": jnp.array(start)}
    state, average = optimizer.init(params), {"w": jnp.array(start)}
    for number in range(3):
        step.update(model)
        updates, state = optimizer.update({"w": 3 * jnp.square(params["w"])}, state, params)
        params: Any = optax.apply_updates(params, updates)
        average: Any = optax.incremental_update(params, average, newest_share(config.train, jnp.int32(number)))
    np.testing.assert_allclose(model.weight.detach().numpy(), params["w"], rtol=1e-4)
    np.testing.assert_allclose(step.average[0].numpy(), average["w"], rtol=1e-4)
