"""The same loss, gradients and samples on every mesh of 1, 2, 4 and 8 devices.

A mesh changes the order in which float32 sums are taken (over the batch, over split channels) and nothing else. Each
sum is off by some 6e-8 of its terms; what a whole network makes of that is the tolerance, written beside its reason.
The joint model compiles too long for every mesh in each run of the tests; on the mesh 2x2x2, test_training_run compares
its losses and gradient norm, test_pipeline its samples.
"""

from functools import cache
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
from jaxtyping import Array

from con360av_jax import cli, model, sample
from con360av_jax.config.settings import Config, MeshConfig, NoiseSchedule, PerModality, TrainConfig
from con360av_jax.data.fake import fake_batch
from con360av_jax.denoiser import Denoiser
from con360av_jax.diffusion.loss import Batch
from con360av_jax.diffusion.process import draw_noise
from con360av_jax.errors import ConfigError
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.models.joint import joint_model
from con360av_jax.runtime import compile_cache
from con360av_jax.sharding import batch_sharding, make_mesh, replicate, shardings_for
from con360av_jax.train.optimizer import merge, select
from con360av_jax.train.step import accumulated
from tests.support import tiny_world
from tests.support.tiny_config import TINY
from tests.support.toy_model import NULL_TEXT, RECIPE, SCHEDULES, toy, toy_batch, toy_params, training_loss

pytestmark = pytest.mark.usefixtures("quick_compiles")

POWERS = (1, 2, 4, 8)
ONE = MeshConfig()
MESHES = [
    MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
    for data in POWERS
    for fsdp in POWERS
    for tensor in POWERS
    if 1 < data * fsdp * tensor <= 8
]
BATCH = 8
# Of the largest number in what is compared. A linear model: little more than the sums themselves.
TOY_ROUNDING = 1e-5
# Of the norm of all gradients, per parameter. A hundred layers, whose norms divide by what they sum.
ROUNDING = 1e-4
# Guidance by 7.5 multiplies the differences of predictions, in each of three steps.
SAMPLE_ROUNDING = 1e-3

Found = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def name_of(mesh: MeshConfig) -> str:
    return f"{mesh.data}x{mesh.fsdp}x{mesh.tensor}"


@cache
def lean() -> Config:
    """Little to compile, but all that the published setting trains, with predicted clean latents."""
    return tiny_world.with_train(tiny_world.lean(TINY), trainable="connectors")


@cache
def random_params() -> Params:
    """Parameters of the joint model. None is zero, as many are when training starts: each has a gradient."""
    random = np.random.default_rng(0)

    def leaf(path: str, shape: tuple[int, ...]) -> np.ndarray:
        noise = random.normal(size=shape).astype(np.float32)
        if path.endswith("kernel"):
            return noise / np.float32(np.prod(shape[:-1]) ** 0.5)
        return np.float32(path.endswith("scale")) + np.float32(0.1) * noise

    return unflatten(
        {path: leaf(path, shape.shape) for path, shape in flatten(joint_model(lean(), "float32")[1]).items()}
    )


def gradients_on(
    mesh_config: MeshConfig,
    denoiser: Denoiser,
    params: Params,
    batch: Batch,
    null_text: Any,
    schedules: PerModality[NoiseSchedule],
    recipe: TrainConfig,
) -> Found:
    """Metrics and the gradient of each parameter that learns, before the optimizer."""
    mesh = make_mesh(mesh_config)
    trained, frozen = select(jax.device_put(params, shardings_for(params, mesh)), recipe.trainable)

    def loss(trained: Params, frozen: Params, batch: Batch) -> tuple[Array, dict[str, Array]]:
        key = jax.random.key(5)
        return training_loss(denoiser, merge(trained, frozen), batch, null_text, key, schedules, recipe)

    places = jax.tree.map(lambda leaf: leaf.sharding, trained)
    compute = jax.jit(jax.grad(loss, has_aux=True), out_shardings=(places, replicate(mesh)))
    gradients, metrics = compute(trained, frozen, jax.device_put(batch, batch_sharding(mesh)))
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(gradients)} == {mesh.size}
    return jax.tree.map(np.asarray, metrics), flatten(jax.tree.map(np.asarray, gradients))


@cache
def toy_gradients(mesh: MeshConfig) -> Found:
    return gradients_on(mesh, toy, toy_params(), toy_batch(), NULL_TEXT, SCHEDULES, RECIPE)


@cache
def gradients(mesh: MeshConfig) -> Found:
    batch = cast(Batch, fake_batch(lean(), BATCH))
    batch["sample_id"] = batch["sample_id"].astype(np.int32)
    null_text = jax.tree.map(lambda leaf: np.zeros_like(leaf[0]), batch["text"])
    return gradients_on(
        mesh, joint_model(lean(), "float32")[0], random_params(), batch, null_text, lean().schedule, lean().train
    )


def same_gradients(found: Found, wanted: Found, rounding: float) -> None:
    assert {"loss", "loss/audio", "loss/video", "bucket_sum/audio", "bucket_count"} <= set(wanted[0])
    for name, value in wanted[0].items():
        np.testing.assert_allclose(found[0][name], value, rtol=rounding, err_msg=name)
    norm = float(np.sqrt(sum(np.square(leaf).sum() for leaf in wanted[1].values())))
    assert found[1].keys() == wanted[1].keys() and norm > 0
    wrong = {path: float(np.linalg.norm(found[1][path] - leaf)) / norm for path, leaf in wanted[1].items()}
    assert {path: error for path, error in wrong.items() if not error < rounding} == {}


def latents_on(mesh_config: MeshConfig, config: Config, params: Params, shapes: dict, text: Any, maps: Any) -> dict:
    """Guided samples of both modalities from the same noise."""
    mesh = make_mesh(mesh_config)
    noise = jax.tree.map(np.asarray, draw_noise(jax.random.key(3), shapes))
    negative = jax.tree.map(np.zeros_like, text)
    placed = jax.device_put(params, shardings_for(params, mesh))
    found = sample.BatchSampler(config, mesh, "float32")(placed, noise, text, negative, maps, config.sampler)
    return jax.tree.map(np.asarray, found)


@cache
def toy_latents(mesh: MeshConfig) -> dict:
    batch = toy_batch()
    shapes = {name: moments["mean"].shape for name, moments in batch["moments"].items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "joint_model", lambda *_: (toy, {}))
        return latents_on(mesh, TINY, toy_params(), shapes, batch["text"], batch["maps"])


@cache
def latents(mesh: MeshConfig) -> dict:
    batch = fake_batch(lean(), 4)
    shapes = {name: moments["mean"].shape for name, moments in batch["moments"].items()}
    return latents_on(mesh, lean(), random_params(), shapes, batch["text"], batch["maps"])


def same_latents(found: dict, wanted: dict, rounding: float) -> None:
    assert found.keys() == wanted.keys() == {"audio", "video"}
    for name, value in wanted.items():
        assert np.isfinite(value).all()
        np.testing.assert_allclose(found[name], value, rtol=0, atol=rounding * np.abs(value).max(), err_msg=name)


NETWORKS = ["toy", pytest.param("joint", marks=pytest.mark.slow)]


@pytest.mark.parametrize("mesh", MESHES, ids=name_of)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_mesh_gives_the_same_loss_and_gradients(network: str, mesh: MeshConfig):
    made, rounding = (toy_gradients, TOY_ROUNDING) if network == "toy" else (gradients, ROUNDING)
    same_gradients(made(mesh), made(ONE), rounding)


@pytest.mark.parametrize("mesh", MESHES, ids=name_of)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_mesh_gives_the_same_samples(network: str, mesh: MeshConfig):
    made, rounding = (toy_latents, TOY_ROUNDING) if network == "toy" else (latents, SAMPLE_ROUNDING)
    same_latents(made(mesh), made(ONE), rounding)


def test_a_batch_in_parts_has_the_gradients_of_the_whole_on_every_kind_of_mesh():
    """Copies of the model add up their parts before they reduce them (train.step.accumulated)."""
    rows = (np.random.default_rng(2).normal(size=(16, 8)).astype(np.float32),)
    params = {"attn": {"to_q": {"kernel": np.random.default_rng(3).normal(size=(8, 8)).astype(np.float32)}}}

    def loss(params: Params, x: Array) -> tuple[Array, dict[str, Array]]:
        errors = jax.numpy.square(jax.numpy.tanh(x @ params["attn"]["to_q"]["kernel"])).mean(axis=1)
        return errors.mean(), {"loss": errors.mean(), "bucket_count": errors.sum()}

    wanted = jax.grad(loss, has_aux=True)(params, *rows)
    for config in (
        ONE,
        MeshConfig(data=8),
        MeshConfig(fsdp=4),
        MeshConfig(data=4, tensor=2),
        MeshConfig(data=2, fsdp=2, tensor=2),
    ):
        mesh = make_mesh(config)
        compute = jax.jit(lambda params, *rows, mesh=mesh: accumulated(loss, params, rows, 2, mesh))
        placed = jax.device_put(params, shardings_for(params, mesh))
        found = compute(placed, *jax.device_put(rows, batch_sharding(mesh)))
        # Float32 sums in another order.
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6), found, wanted)


def test_the_command_samples_on_the_mesh_it_is_given(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    given = []
    monkeypatch.setattr(compile_cache, "enable_compile_cache", lambda: None)
    command = ["sample", "--checkpoint", str(tmp_path), "--caption", "rain", "--out", str(tmp_path / "clip.mp4")]

    def load(path: Path, *, ema: bool, mesh: MeshConfig, dtype: str | None) -> None:
        given.append(mesh)
        raise ConfigError("seen enough")

    with monkeypatch.context() as patch:
        patch.setattr(model, "load", load)
        assert cli.main(command) == cli.main([*command, "--mesh.data", "2", "--mesh.tensor", "4"]) == 2
    assert given == [ONE, MeshConfig(data=2, tensor=4)]
    capsys.readouterr()
    assert cli.main([*command, "--mesh.fsdp", "16"]) == 2
    assert "mesh data=1 fsdp=16 tensor=1 needs 16 devices, 8 are here" in capsys.readouterr().err
