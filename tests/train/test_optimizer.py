"""Muon: its updates of matrices and convolutions are orthogonal and of AdamW's size; the rest is AdamW."""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from con360av_jax.config.settings import MeshConfig, TrainConfig
from con360av_jax.models.functional import Params, flatten
from con360av_jax.sharding import make_mesh
from con360av_jax.train.optimizer import make_optimizer, select, updates_made
from con360av_jax.train.state import init_state, state_shardings
from tests.support.toy_model import toy_params

SETTINGS = {"learning_rate": 1e-2, "weight_decay": 0.0, "clip_norm": 1e9}


def update(params: Params, gradients: Params, optimizer: str) -> dict[str, np.ndarray]:
    """First update that an optimizer makes."""
    chosen = make_optimizer(TrainConfig(optimizer=optimizer, **SETTINGS))  # pyright: ignore[reportArgumentType]
    found, _ = jax.jit(chosen.update)(gradients, chosen.init(params), params)
    return {path: np.asarray(leaf) for path, leaf in flatten(found).items()}


@pytest.fixture(scope="module")
def params() -> Params:
    random = np.random.default_rng(0)
    shapes = {"wide": (8, 24), "twin": (8, 24), "conv": (3, 3, 4, 16), "vector": (24,), "scale": ()}
    return {name: {"kernel": jnp.asarray(random.standard_normal(shape), jnp.float32)} for name, shape in shapes.items()}


def test_muon_s_updates_are_orthogonal_and_as_long_as_0_2_of_the_rate_per_element(params: Params):
    """Liu et al. 2025, equation 4: 0.2 lr sqrt(max(rows, columns)) U V^T. Five Newton-Schulz steps with Jordan's
    coefficients leave singular values between about 0.7 and 1.2."""
    found = update(params, params, "muon")
    for name in ("wide", "twin", "conv"):
        matrix = found[f"{name}/kernel"].reshape(-1, found[f"{name}/kernel"].shape[-1])
        gradient = np.asarray(params[name]["kernel"]).reshape(matrix.shape)
        values = np.linalg.svd(-matrix / (1e-2 * 0.2 * np.sqrt(max(matrix.shape))), compute_uv=False)
        assert values.min() > 0.6 and values.max() < 1.3
        # U V^T of the gradient itself, against its direction.
        left, _, right = np.linalg.svd(gradient, full_matrices=False)
        cosine = np.sum(-matrix * (left @ right)) / np.linalg.norm(matrix) / np.linalg.norm(left @ right)
        assert cosine > 0.97


def test_members_of_a_stack_are_made_orthogonal_alone(params: Params):
    alone = update({"wide": params["wide"]}, {"wide": params["wide"]}, "muon")
    np.testing.assert_allclose(
        update(params, params, "muon")["wide/kernel"], alone["wide/kernel"], rtol=1e-4, atol=1e-7
    )


def test_vectors_and_scalars_get_adamw_s_updates_with_nesterov_momentum(params: Params):
    muon = update(params, params, "muon")
    adamw = optax.adamw(1e-2, weight_decay=0.0, nesterov=True)
    for name in ("vector", "scale"):
        with jax.numpy_dtype_promotion("standard"):
            wanted, _ = adamw.update(params[name], adamw.init(params[name]), params[name])
        np.testing.assert_allclose(muon[f"{name}/kernel"], cast(Params, wanted)["kernel"], rtol=1e-5)


def test_both_optimizers_count_their_updates(params: Params):
    for name in ("adamw", "muon"):
        chosen = make_optimizer(TrainConfig(optimizer=name, **SETTINGS))  # pyright: ignore[reportArgumentType]
        state = chosen.init(params)
        for _ in range(3):
            _, state = chosen.update(params, state, params)
        assert int(updates_made(state)) == 3


def test_muon_on_a_mesh_gives_the_updates_of_one_device():
    """Matrices that are split over devices are still made orthogonal as a whole; each moment lies like its stack."""
    params = select(toy_params(), "all")[0]
    config = TrainConfig(optimizer="muon", **SETTINGS)  # pyright: ignore[reportArgumentType]
    optimizer, mesh = make_optimizer(config), make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    state = init_state(params, optimizer)
    places = state_shardings(jax.eval_shape(lambda: state), mesh)
    assert any(len(leaf.spec) and any(leaf.spec) for leaf in jax.tree.leaves(places.opt_state))
    spread = jax.device_put(state, places)
    update = jax.jit(lambda state: optimizer.update(state.params, state.opt_state, state.params)[0])
    wanted, found = flatten(update(state)), flatten(update(spread))
    for path, leaf in wanted.items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-4, atol=1e-6, err_msg=path)
