"""The data type that a model computes in is asked for when it is loaded; that of training decides nothing there."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import con360av_jax as c3
from con360av_jax import cli
from con360av_jax.base.pretrained import open_pretrained
from con360av_jax.config.settings import Config, Dtype, MeshConfig
from con360av_jax.data.fake import fake_batch
from con360av_jax.denoiser import DenoiserInputs
from con360av_jax.errors import ConfigError
from con360av_jax.models import functional
from con360av_jax.models.environment import ClampedNorm
from con360av_jax.models.functional import flatten
from con360av_jax.models.joint import JointModel, joint_model
from con360av_jax.models.layers import GroupNorm, LayerNorm
from con360av_jax.sample import BatchSampler
from con360av_jax.sharding import make_mesh
from con360av_jax.train.loop import load_state
from con360av_jax.train.program import abstract_start
from tests.support import tiny_world

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def config(lean: Config) -> Config:
    """A config that trains in bfloat16, as that of a converted base does."""
    return replace(tiny_world.with_train(lean, compute_dtype="bfloat16"), name="rounded")


@pytest.fixture(scope="module", params=["base", "run"])
def folder(config: Config, request: pytest.FixtureRequest) -> Path:
    return getattr(tiny_world, request.param)(config)


def given(model: c3.Con360AV) -> DenoiserInputs:
    noise, text = model.noise([1, 2]), model.encode_text(["a bell", "a drum"])
    maps = np.stack([model.control(c3.Viewpoint(yaw=yaw))[0] for yaw in (0, 90)])
    timesteps = {name: jnp.array([500, 20], jnp.int32) for name in noise}
    return DenoiserInputs(latents=noise, timesteps=timesteps, text=text, maps=jnp.asarray(maps))


def test_on_a_cpu_the_networks_compute_in_float32_whatever_training_does(config: Config, folder: Path):
    model = c3.load(folder)
    assert (model.dtype, model.config.train.compute_dtype) == ("float32", "bfloat16")
    inputs = given(model)
    found = model.denoise(inputs.latents, inputs.timesteps, inputs.text, maps=inputs.maps)
    graphdef, _ = functional.abstract(lambda rngs: JointModel(config.model, rngs=rngs))
    wanted = jax.jit(lambda params, inputs: functional.apply(graphdef, params, inputs))(model.params, inputs)
    for name, noise in found.items():
        assert relative_error(noise, wanted[name]) < 1e-5, name
    latent = np.asarray(inputs.latents["video"][0])
    exact = model.codecs.decode_video(latent)
    rounded = c3.load(folder, dtype="bfloat16").codecs.decode_video(latent)
    assert 0 < np.abs(exact.astype(int) - rounded).max() < 16


def relative_error(found: jax.Array, wanted: jax.Array) -> float:
    return float(jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("training", ["float32", "bfloat16"])
def test_the_sampler_s_program_is_of_the_dtype_asked_for(lean: Config, training: Dtype, dtype: Dtype):
    config = tiny_world.with_train(lean, compute_dtype=training)
    sampler = BatchSampler(config, make_mesh(MeshConfig()), dtype)
    batch = fake_batch(config, 2)
    noise = {name: moments["mean"] for name, moments in batch["moments"].items()}
    shapes = joint_model(config, dtype)[1]
    given = (noise, batch["text"], batch["text"], batch["maps"], np.ones(2, bool))
    program = sampler._run.lower(shapes, *given, settings=config.sampler)  # noqa: SLF001
    assert ("bf16" in program.as_text()) == (dtype == "bfloat16")


def test_gpus_get_bfloat16_unless_float32_is_asked_for(config: Config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    folder = tiny_world.base(config)
    assert [c3.load(folder, dtype=dtype).dtype for dtype in (None, "float32")] == ["bfloat16", "float32"]


def test_of_the_frozen_parameters_in_training_those_of_norms_are_float32(config: Config):
    graphdef, shapes = functional.abstract(lambda rngs: JointModel(config.model, rngs=rngs))
    norms = {
        "/".join(map(str, path))
        for path, module in nnx.iter_modules(functional.merge(graphdef, shapes))
        if isinstance(module, ClampedNorm | GroupNorm | LayerNorm)
    }
    _, frozen = abstract_start(tiny_world.with_train(config, trainable="map_encoder/lstm/.*"), make_mesh(MeshConfig()))
    kinds = {path: leaf.dtype for path, leaf in flatten(frozen).items()}
    wide = {path for path, kind in kinds.items() if kind == jnp.float32}
    assert wide == {path for path in kinds if path.rpartition("/")[0] in norms} and len(wide) > 100
    assert {kinds[path] for path in kinds.keys() - wide} == {jnp.dtype(jnp.bfloat16)}
    wanted = open_pretrained(tiny_world.base(config)).params("joint")
    _, loaded = load_state(config, open_pretrained(tiny_world.base(config)), make_mesh(MeshConfig()))
    for path, leaf in flatten(loaded).items():
        assert leaf.dtype == kinds[path], path
        if path in wide:
            np.testing.assert_array_equal(leaf, flatten(wanted)[path], err_msg=path)


def test_an_unknown_dtype_is_refused(config: Config):
    with pytest.raises(ConfigError, match="dtype 'float16': give one of float32, bfloat16"):
        c3.load(tiny_world.base(config), dtype="float16")  # pyright: ignore[reportArgumentType]


def test_a_card_says_the_dtype_of_its_clip(config: Config, tmp_path: Path):
    base = str(tiny_world.base(config))
    for options, dtype in (([], "float32"), (["--dtype", "bfloat16"], "bfloat16")):
        out = tmp_path / f"{dtype}.mp4"
        given = ["--caption", "a bell", "--steps", "1", "--out", str(out)]
        assert cli.main(["sample", "--checkpoint", base, *given, *options]) == 0
        assert json.loads(out.with_suffix(".json").read_text())["dtype"] == dtype
