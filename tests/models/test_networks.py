"""The joint model's promises at the tiny width, and its parts against their equations stated a second time.

The joint model is compiled here without LLVM's optimiser, which contracts and vectorises the same sums differently in
two different programs: only so "bit for bit" is a statement about the model. It compiles faster, too.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from con360av_jax.config import shapes
from con360av_jax.config.settings import Config, MapEncoderConfig, Remat
from con360av_jax.denoiser import DenoiserInputs
from con360av_jax.errors import ConfigError
from con360av_jax.models import functional
from con360av_jax.models.attention import SpatialTransformer
from con360av_jax.models.connector import nearest_steps
from con360av_jax.models.film import pool, pooling_matrix
from con360av_jax.models.functional import Params
from con360av_jax.models.joint import SITES, JointModel
from con360av_jax.models.layers import GroupNorm
from con360av_jax.models.map_encoder import LSTM, MapEncoder
from con360av_jax.models.motion import MotionModule
from con360av_jax.models.remat import run
from con360av_jax.models.resnet import ResnetBlock
from con360av_jax.models.unet import UNet
from tests.support.tiny_world import acting_connectors

BATCH = 2
F32 = jnp.float32
Outputs = dict[str, jax.Array]
as_written = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), F32)


@pytest.fixture(scope="module")
def inputs(tiny: Config) -> DenoiserInputs:
    return DenoiserInputs(
        latents={name: _random(1, BATCH, *shape) for name, shape in shapes.latent_shapes(tiny).items()},
        timesteps={name: jnp.asarray([500, 37], jnp.int32) for name in shapes.MODALITIES},
        text={name: _random(2, BATCH, *shape) for name, shape in shapes.text_shapes(tiny).items()},
    )


@pytest.fixture(scope="module")
def maps(tiny: Config) -> jax.Array:
    return jax.nn.sigmoid(_random(3, BATCH, *shapes.maps_shape(tiny)))


@pytest.fixture(scope="module")
def model(tiny: Config) -> tuple["nnx.GraphDef[JointModel]", Params]:
    def build(rngs: nnx.Rngs) -> JointModel:
        return JointModel(tiny.model, rngs=rngs)

    with acting_connectors():
        return functional.abstract(build)[0], functional.init(build, jax.random.key(0))


@pytest.fixture(scope="module")
def params(model: tuple["nnx.GraphDef[JointModel]", Params]) -> Params:
    return model[1]


@pytest.fixture(scope="module")
def steered(params: Params) -> Params:
    """The same model after its FiLM layers have learned something."""
    return params | {"film": jax.tree.map(lambda leaf: 0.5 * _random(4, *leaf.shape), params["film"])}


@pytest.fixture(scope="module")
def with_maps(model, inputs: DenoiserInputs) -> Callable[..., Outputs]:
    """(params, maps, map_mask, latents) -> predictions."""

    run = as_written(partial(functional.apply, model[0]))
    return lambda params, maps, mask, latents=inputs.latents: run(
        params, replace(inputs, latents=latents, maps=maps, map_mask=mask)
    )


@pytest.fixture(scope="module")
def baseline(model, params: Params, inputs: DenoiserInputs) -> Outputs:
    return as_written(partial(functional.apply, model[0]))(params, inputs)


ALL, NONE = jnp.ones(BATCH, bool), jnp.zeros(BATCH, bool)


def _assert_same(found: Outputs, wanted: Outputs):
    for name in shapes.MODALITIES:
        np.testing.assert_array_equal(found[name], wanted[name])


def test_predictions_have_the_shape_of_the_latents_although_audio_is_padded_inside(
    inputs: DenoiserInputs, baseline: Outputs
):
    assert inputs.latents["audio"].shape[1] % shapes.UNET_FACTOR != 0
    for name, latent in inputs.latents.items():
        assert (baseline[name].shape, baseline[name].dtype) == (latent.shape, latent.dtype)
        assert np.isfinite(baseline[name]).all()


def test_at_initialisation_the_model_with_maps_equals_the_model_without_bit_for_bit(
    with_maps, params: Params, maps: jax.Array, baseline: Outputs
):
    _assert_same(with_maps(params, maps, ALL), baseline)


def test_after_one_gradient_step_the_maps_matter(
    model, with_maps, params: Params, inputs: DenoiserInputs, maps, baseline
):
    # Sound's last site only; the gradient through the whole model belongs to the train step's tests.
    @as_written
    def gradient(film: Params, params: Params, inputs: DenoiserInputs) -> Params:
        def loss(film: Params) -> jax.Array:
            sound = params["film"]["audio"] | {"up_1": film}
            learning = params | {"film": params["film"] | {"audio": sound}}
            noise = functional.apply(model[0], learning, inputs)["audio"]
            return jnp.mean(jnp.square(noise - 1))

        return jax.grad(loss)(film)

    film = params["film"]["audio"]["up_1"]
    stepped = jax.tree.map(lambda p, g: p - g, film, gradient(film, params, replace(inputs, maps=maps)))
    sound = params["film"]["audio"] | {"up_1": stepped}
    found = with_maps(params | {"film": params["film"] | {"audio": sound}}, maps, ALL)
    assert not np.array_equal(found["audio"], baseline["audio"])


def test_moving_the_viewpoint_moves_both_outputs(with_maps, steered: Params, maps: jax.Array):
    before = with_maps(steered, maps, ALL)
    moved = with_maps(steered, maps.at[..., 1].set(jnp.roll(maps[..., 1], 8, axis=-1)), ALL)
    for name in shapes.MODALITIES:
        assert np.abs(before[name] - moved[name]).max() > 1e-4


def test_rows_without_maps_equal_the_baseline_bit_for_bit(with_maps, steered: Params, maps: jax.Array, baseline):
    _assert_same(with_maps(steered, maps, NONE), baseline)
    found = with_maps(steered, maps, jnp.asarray([True, False]))
    for name in shapes.MODALITIES:
        np.testing.assert_array_equal(found[name][1], baseline[name][1])
        assert not np.array_equal(found[name][0], baseline[name][0])


def test_rows_of_a_batch_are_independent(with_maps, steered: Params, maps: jax.Array, inputs: DenoiserInputs):
    found = with_maps(steered, maps, ALL)
    latents = jax.tree.map(lambda latent: latent.at[1].set(latent[1] + 1), inputs.latents)
    changed = with_maps(steered, maps.at[1].set(0.0), ALL, latents)
    for name in shapes.MODALITIES:
        np.testing.assert_array_equal(found[name][0], changed[name][0])
        assert not np.array_equal(found[name][1], changed[name][1])


def test_audio_alone_is_the_audio_unet_and_needs_no_video(tiny: Config, model, params: Params, inputs: DenoiserInputs):
    graphdef, _ = functional.abstract(lambda rngs: UNet(tiny.model.unet_audio, rngs=rngs, dtype=F32))
    latents, timesteps, text = inputs.latents["audio"], inputs.timesteps["audio"], inputs.text["audio"]
    only = DenoiserInputs(
        latents={"audio": latents}, timesteps={"audio": timesteps}, text={"audio": text}, modalities=("audio",)
    )
    alone = as_written(partial(functional.apply, model[0]))(params, only)["audio"]
    padded = jnp.pad(latents, ((0, 0), (0, 7), (0, 0), (0, 0)))[:, None]
    unet = as_written(partial(functional.apply, graphdef))(params["unet"]["audio"], padded, timesteps, text)
    np.testing.assert_array_equal(alone, unet[:, 0, :25])


def test_half_precision_stays_near_single_precision_and_is_used():
    x, context = _random(17, 1, 2, 4, 4, 8), _random(18, 1, 3, 6)
    found = {}
    for dtype in (jnp.bfloat16, F32):
        block = SpatialTransformer(8, heads=2, groups=4, context_width=6, rngs=nnx.Rngs(0), dtype=dtype)
        found[dtype] = jax.jit(block)(x.astype(dtype), context.astype(dtype))
        assert found[dtype].dtype == dtype
    error = np.linalg.norm(found[jnp.bfloat16].astype(F32) - found[F32]) / np.linalg.norm(found[F32])
    assert 1e-4 < error < 2e-2


def test_an_unknown_modality_is_a_clear_error(model, params: Params, inputs: DenoiserInputs):
    with pytest.raises(ConfigError, match="modality 'smell' given, but there are audio, video"):
        functional.apply(model[0], params, replace(inputs, modalities=("smell",)))


def test_film_starts_at_zero_at_all_eight_sites_and_nothing_else_steers(params: Params):
    assert {name: set(sites) for name, sites in params["film"].items()} == dict.fromkeys(shapes.MODALITIES, set(SITES))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(params["film"]))
    assert set(params) == {"unet", "environment_encoder", "connector", "map_encoder", "film"}


@pytest.fixture(scope="module")
def encode() -> Callable[[jax.Array], jax.Array]:
    config = MapEncoderConfig(widths=(8, 8, 16), strides=(2, 2, 1), norm_groups=4, lstm_width=8)
    return jax.jit(MapEncoder(config, rngs=nnx.Rngs(0), dtype=F32))


@pytest.mark.parametrize("cells", [1, 3])
def test_map_encoder_commutes_with_rolling_the_panorama_by_whole_cells(encode, cells: int):
    maps = _random(5, 1, 4, 16, 32, 2)
    rolled = encode(jnp.roll(maps, 4 * cells, axis=3))
    assert rolled.shape == (1, 4, 4, 8, 8)
    np.testing.assert_allclose(rolled, np.roll(encode(maps), cells, axis=3), atol=1e-5)
    assert np.abs(rolled - encode(maps)).max() > 1e-2


def test_map_encoder_remembers_the_past_and_does_not_see_the_future(encode):
    maps = _random(6, 1, 4, 16, 32, 2)
    before, after = encode(maps), encode(maps.at[:, 1].add(_random(7, 1, 16, 32, 2)))
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert all(np.abs(before[:, frame] - after[:, frame]).max() > 1e-4 for frame in (1, 2, 3))


def test_lstm_follows_its_equations_in_torch_gate_order():
    lstm = LSTM(3, 5, rngs=nnx.Rngs(0), dtype=F32)
    x = np.asarray(_random(8, 4, 2, 3))
    w_x, w_h, b = (np.asarray(v[...]) for v in (lstm.input.kernel, lstm.hidden.kernel, _bias(lstm.input)))
    h = c = np.zeros((2, 5))
    for step, found in zip(x, lstm(jnp.asarray(x)), strict=True):
        i, f, g, o = np.split(step @ w_x + h @ w_h + b, 4, axis=-1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(found, h, atol=1e-6)


def _bias(layer: nnx.Linear) -> nnx.Param:
    assert layer.bias is not None
    return layer.bias


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_group_norm_is_the_mean_and_variance_of_each_group():
    norm = GroupNorm(12, 3, eps=1e-5, dtype=F32)
    x = np.asarray(_random(9, 2, 3, 4, 5, 12)) * 3 + 100
    grouped = x.astype(np.float64).reshape(2, 3, 4, 5, 3, 4)
    for axes, over in (((-3, -2), (2, 3, 5)), ((-4, -3, -2), (1, 2, 3, 5))):
        mean, variance = grouped.mean(over, keepdims=True), grouped.var(over, keepdims=True)
        wanted = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
        np.testing.assert_allclose(norm(jnp.asarray(x), axes=axes), wanted, atol=3e-5)


@pytest.mark.parametrize(("source", "target"), [(8, 4), (8, 3), (4, 7), (5, 1), (3, 3), (32, 13)])
def test_pooling_averages_the_bins_of_torch(source: int, target: int):
    x = np.asarray(_random(13, source))
    bins = [x[i * source // target : -(-(i + 1) * source // target)].mean() for i in range(target)]
    np.testing.assert_allclose(pooling_matrix(source, target) @ x, bins, atol=1e-6)


def test_pooling_acts_on_the_axis_it_is_asked_for():
    x = _random(14, 1, 4, 6, 8, 2)
    found = pool(x, (2, 6, 1))
    np.testing.assert_allclose(found[0, :, :, 0], np.asarray(x[0]).reshape(2, 2, 6, 8, 2).mean((1, 3)), atol=1e-6)


def test_nearest_steps_match_torch_rounding():
    np.testing.assert_array_equal(nearest_steps(4, 8), [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(nearest_steps(24, 3), [0, 8, 16])
    np.testing.assert_array_equal(nearest_steps(32, 26), np.arange(26) * 32 // 26)


def test_more_frames_than_the_motion_modules_know_is_a_clear_error():
    module = MotionModule(8, heads=2, groups=4, max_frames=4, rngs=nnx.Rngs(0), dtype=F32)
    with pytest.raises(ConfigError, match="5 frames given, but motion modules know 4"):
        module(jnp.zeros((1, 5, 2, 2, 8)))


@pytest.mark.parametrize("remat", ["products", "blocks"])
def test_recomputing_saves_memory_and_changes_neither_values_nor_gradients(remat: Remat):
    graphdef, params = functional.split(
        ResnetBlock(8, 16, embedding_width=4, groups=4, eps=1e-5, rngs=nnx.Rngs(0), dtype=F32)
    )
    x, embedding = _random(15, 1, 2, 4, 4, 8), _random(16, 1, 4)

    def loss(params: Params, remat: Remat) -> jax.Array:
        return jnp.sum(jnp.square(run(functional.merge(graphdef, params), x, embedding, remat=remat)))

    (plain, plain_grad), (again, again_grad) = (
        jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, policy) for policy in ("none", remat)
    )
    np.testing.assert_allclose(plain, again, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), plain_grad, again_grad)

    def kept(policy: Remat) -> int:
        """Numbers that the backward pass finds waiting."""
        backward = jax.eval_shape(lambda params: jax.vjp(lambda params: loss(params, policy), params)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept("blocks") < kept("products") < kept("none")
