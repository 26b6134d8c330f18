"""A tiny pretrained folder, dataset and run, each made once per test process and shared by the tests that read them."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache

from con360av_jax import sample
from con360av_jax.base.pretrained import open_pretrained
from con360av_jax.base.random import create_random
from con360av_jax.config.settings import AudioUNetConfig, Config, MeshConfig, VideoUNetConfig
from con360av_jax.data.fake import ALL_FIELDS, fake_sample
from con360av_jax.data.writer import write_dataset
from con360av_jax.denoiser import Latents
from con360av_jax.models import connector, layers
from con360av_jax.models.functional import Params
from con360av_jax.models.joint import each_pass, joint_model, own_maps
from con360av_jax.sharding import make_mesh
from con360av_jax.train import program
from con360av_jax.train.checkpoint import CheckpointWriter, Progress
from con360av_jax.train.loop import load_state
from con360av_jax.train.run_folder import write_run

RECORDS = 5
TIMING = ("clips_per_second", "step_seconds", "data_stall", "mfu", "memory_peak_gib")


@cache
def world() -> Path:
    """The folder everything lies in; removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="con360av-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def lean(config: Config) -> Config:
    """`config` with little to compile: no text attention outside the middle blocks, only Map Encoder and FiLM learn,
    and one pass of the model per step. Batches of four divide over every mesh used here."""

    def bare(unet: AudioUNetConfig | VideoUNetConfig) -> AudioUNetConfig | VideoUNetConfig:
        return replace(unet, levels=tuple(replace(level, attention=False) for level in unet.levels))

    model = replace(config.model, unet_audio=bare(config.model.unet_audio), unet_video=bare(config.model.unet_video))
    return with_train(
        replace(config, name="lean", model=model), trainable="control", clean_estimate_share=0.0, batch_size=4
    )


def stand_in(params: Params, inputs: Any) -> Latents:
    """A network with the joint model's parameters that compiles at once, for tests of all that is around a network:
    every number of Map Encoder and FiLM has a gradient of its own, every latent and map counts."""
    seen = inputs.maps.mean(axis=(1, 2, 3, 4)) * inputs.map_mask.astype(jnp.float32)

    def told(leaf: jax.Array) -> jax.Array:
        waves = jnp.cos(seen[:, None] * jnp.arange(leaf.size, dtype=jnp.float32)[None])
        return waves @ rearrange(leaf, "... -> (...)") / leaf.size**0.5

    leaves = jax.tree.leaves({name: params[name] for name in ("map_encoder", "film")})
    level = reduce(jnp.add, map(told, leaves))

    def one(name: str, x: jax.Array) -> jax.Array:
        own = own_maps(inputs, name, level)
        return jnp.tanh(each_pass(inputs, name, x) * jnp.expand_dims(own, tuple(range(1, x.ndim))))

    return {name: one(name, x) for name, x in inputs.latents.items()}


@contextmanager
def without_network() -> Iterator[None]:
    """Training steps, validations and samplers of the `stand_in`."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (program, sample):
            patch.setattr(module, "joint_model", lambda *given: (stand_in, joint_model(*given)[1]))
        yield


@contextmanager
def quick_compiles() -> Iterator[None]:
    """Compiles with little optimisation and keeps what was compiled for all who enter: the same few programs are
    wanted again by every test that opens a model anew."""
    _configure({"jax_compilation_cache_dir": str(world() / "xla"), "jax_disable_most_optimizations": True})
    try:
        yield
    finally:
        _configure({"jax_compilation_cache_dir": None, "jax_disable_most_optimizations": False})


def _configure(settings: dict[str, object]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    # JAX decides at its first compilation whether it has a cache, unless asked again.
    compilation_cache.reset_cache()


@cache
def base(config: Config) -> Path:
    """A pretrained folder with random weights, also where fresh connectors have zeros."""
    folder = world() / f"base-{config.name}"
    with acting_connectors():
        create_random(folder, config, seed=3)
    return folder


@contextmanager
def acting_connectors() -> Iterator[None]:
    """Connectors that are made here are not the identity, as if they had been trained."""

    def drawn(*widths: int, zero: bool = False, **options: Any) -> nnx.Linear:
        return layers.linear(*widths, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connector, "linear", drawn)
        yield


@cache
def dataset(config: Config) -> Path:
    """A dataset of five random records, an odd number so that epochs and batches do not line up."""
    folder = world() / f"dataset-{config.name}"
    samples = (fake_sample(config, number) for number in range(RECORDS))
    write_dataset(folder, samples, config, ALL_FIELDS, [], {"made by": "tests"}, shard_records=2)
    return folder


@cache
def held_out(config: Config) -> Path:
    """A dataset of three random records of other recordings than those of `dataset`."""
    folder = world() / f"held-out-{config.name}"
    samples = (fake_sample(config, number) for number in range(RECORDS, RECORDS + 3))
    write_dataset(folder, samples, config, ALL_FIELDS, [], {"made by": "tests"})
    return folder


@cache
def run(config: Config, made_for: Config | None = None) -> Path:
    """A run of 7 steps that were never made: trained parameters are the base's `moved` by 0.1, averages by 0.2.

    Its base and dataset are those of `made_for`, if given.
    """
    folder, of = world() / f"run-{config.name}", made_for or config
    state, _ = load_state(config, open_pretrained(base(of)), make_mesh(MeshConfig()))
    trained = replace(
        state,
        params=jax.tree.map(lambda leaf: moved(leaf, 0.1), state.params),
        ema=jax.tree.map(lambda leaf: moved(leaf, 0.2), state.ema),
    )
    write_run(folder, config, base(of), dataset(of))
    with CheckpointWriter(folder, config) as writer:
        writer.save(trained, Progress(step=7, next_batch=7, seed=0))
    return folder


def moved(leaf: jax.Array, amount: float) -> np.ndarray:
    """`leaf` with another number added to each of its elements."""
    wave = np.sin(np.arange(leaf.size)).reshape(leaf.shape)
    return np.asarray(leaf) + (amount * wave).astype(np.float32)


def with_train(config: Config, **changes: object) -> Config:
    """`config` with other settings of `train`."""
    return with_part(config, "train", **changes)


def with_part(config: Any, path: str, **changes: object) -> Any:
    """`config` with other settings of the part at `path`, such as "model.vae.video"."""
    first, _, rest = path.partition(".")
    part = getattr(config, first)
    return replace(config, **{first: with_part(part, rest, **changes) if rest else replace(part, **changes)})


def metrics(run: Path, file: str = "metrics.jsonl") -> list[dict]:
    """Lines of a run's metrics or of another file, without what depends on the machine."""
    lines = [json.loads(line) for line in (run / file).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMING} for line in lines]


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` by its relative name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_same(one: object, other: object) -> None:
    """Asserts that two trees have one structure and equal arrays, dtypes included."""
    jax.tree.map(partial(np.testing.assert_array_equal, strict=True), one, other)


def leaves_equal(one: object, other: object) -> bool:
    """Whether two trees hold the same bits in the same structure."""
    same = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), one, other)
    return all(jax.tree.leaves(same))
