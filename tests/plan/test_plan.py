"""Plans of training runs: arithmetic, memory that fits or not, suggestions, and the configs and flags for clusters."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import pytest

from con360av_jax import cli
from con360av_jax.config.files import load_config
from con360av_jax.config.settings import AUDIO_SCHEDULE, VIDEO_SCHEDULE, Config, MeshConfig, PerModality
from con360av_jax.data.fake import fake_batch
from con360av_jax.diffusion.loss import Batch, draw, dropout_rates
from con360av_jax.errors import ConfigError
from con360av_jax.models.functional import flatten
from con360av_jax.models.joint import joint_model
from con360av_jax.plan import planner
from con360av_jax.plan.collectives import Collective
from con360av_jax.plan.planner import Machine, parse_memory, plan
from con360av_jax.plan.requirements import Memory, Requirements, on_devices, rows_of, with_rows
from con360av_jax.runtime import flops
from con360av_jax.train.optimizer import select
from convert.rules import place
from convert.tables.joint import JOINT
from tests.support.paths import ROOT
from tests.support.reference_weights import read_fixture, reference_config

CLUSTER = ROOT / "configs" / "cluster"
GIB = 1 << 30
MACHINE = Machine(devices=8, memory=80 * GIB, peak_tflops=100.0, mfu=0.5, bandwidth=10.0)
# GiB per sample and TFLOPs per clip.
COST = {"none": (30.0, 4.0), "products": (20.0, 4.5), "blocks": (5.0, 6.0)}


def fake_measure(config: Config) -> Requirements:
    """Requirements of 10 GiB plus COST per sample."""
    per_row, tera = COST[config.train.remat]
    total = round((10 + per_row * rows_of(config)) * GIB)
    reduced = Collective(kind="all-reduce", payload=4 * 10**9, group=8, runs=1, known=True, place="")
    return Requirements(
        rows=rows_of(config),
        remat=config.train.remat,
        memory=Memory(
            trainable=GIB, ema=GIB, optimizer=GIB, frozen=GIB, batch=0, gradients=GIB, temporaries=0, total=total
        ),
        flops_per_clip=tera * 1e12,
        xla_flops_per_clip=tera * 1e12,
        collectives=[reduced],
        compile_seconds=1.0,
    )


@pytest.fixture(autouse=True)
def no_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "measure", fake_measure)


def with_batch(config: Config, batch_size: int, **mesh: int) -> Config:
    return replace(config, train=replace(config.train, batch_size=batch_size), mesh=MeshConfig(**mesh))


def test_a_mesh_of_another_size_is_replaced_and_said(tiny: Config):
    config, changes = on_devices(with_batch(tiny, 4, data=2), 8)
    assert (config.mesh, config.train.batch_size) == (MeshConfig(data=8), 8)
    assert "planned with data=8" in changes[0] and "planned with 8" in changes[1]
    kept = with_batch(tiny, 16, data=2, fsdp=2, tensor=2)
    assert on_devices(kept, 8) == (kept, [])
    assert rows_of(kept) == 4 and with_rows(kept, 4) == kept


def test_a_part_of_an_accumulated_batch_is_what_a_device_holds(tiny: Config):
    config = with_batch(tiny, 32, data=8)
    config = replace(config, train=replace(config.train, accumulate=2))
    assert rows_of(config) == 2
    assert with_rows(config, 3, "blocks").train.batch_size == 48


def test_memory_is_a_line_and_suggestions_lie_on_it(tiny: Config):
    heard = []
    found = plan(with_batch(tiny, 16, data=8), MACHINE, suggest=True, say=heard.append)
    assert [(one.remat, one.base / GIB, one.per_row / GIB) for one in found.policies] == [
        (name, pytest.approx(10), pytest.approx(per_row)) for name, (per_row, _) in COST.items()
    ]
    # 0.92 * 80 GiB = 73.6 GiB.
    assert [one.largest_rows for one in found.policies] == [2, 3, 12]
    assert found.fits and found.suggestion == "train.remat=none, up to 2 samples at once on each device"
    assert len(heard) == 6 and "2 samples" in heard[0]


@pytest.mark.parametrize(
    ("rows", "memory", "words"),
    [
        (3, 80, "train.remat=products, up to 3"),
        (4, 80, "train.remat=blocks, up to 12"),
        (64, 80, "train.remat=blocks, up to 12"),
        (1, 12, "not one sample fits"),
    ],
)
def test_the_cheapest_policy_that_holds_the_batch_is_suggested(tiny: Config, rows: int, memory: int, words: str):
    machine = replace(MACHINE, memory=memory * GIB)
    found = plan(with_batch(tiny, 8 * rows, data=8), machine, suggest=True, say=lambda _: None)
    assert words in found.suggestion and not found.fits


def test_times_follow_from_the_speeds(tiny: Config):
    found = plan(with_batch(tiny, 16, data=8), MACHINE, suggest=False, say=lambda _: None)
    # 2 clips of 4 TFLOP at 50 TFLOP/s; 2 * 7/8 of 4 GB at 10 GB/s.
    assert found.time.compute == pytest.approx(0.16)
    assert found.time.wire == pytest.approx(0.7)
    assert found.time.range == (pytest.approx(0.7), pytest.approx(0.86))
    assert found.policies == [] and found.suggestion == ""


def test_the_command_writes_json_and_shows_tables(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("XLA_FLAGS", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, "")
    out = tmp_path / "plan.json"
    arguments = ["plan", "debug", "--devices", "8", "--device-memory", "40GiB", "--out", str(out)]
    assert cli.main([*arguments, "--config.train.batch-size", "16"]) == 0
    assert "--xla_force_host_platform_device_count=8" in os.environ["XLA_FLAGS"]
    shown = capsys.readouterr().out
    assert "DOES NOT FIT" in shown and "train.remat=blocks, up to 5" in shown and "an approximation of a GPU's" in shown
    plan = json.loads(out.read_text())
    assert (plan["batch_size"], plan["mesh"]["data"], plan["fits"]) == (16, 8, False)
    assert plan["needs"]["collectives"][0]["payload"] == 4 * 10**9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device-memory", "80"], "--device-memory 80: give a number with a unit"),
        (["--devices", "0"], "--devices 0: give 1 or more"),
        (["--mfu", "0"], "mfu=0.0 must be positive"),
        (["--config.train.stepz", "1"], "--config.train.stepz"),
    ],
)
def test_wrong_options_are_one_line(options: list[str], words: str, capsys, monkeypatch: pytest.MonkeyPatch):
    for name in ("XLA_FLAGS", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, "")
    assert cli.main(["plan", "debug", "--devices", "8", *options]) == 2
    message = capsys.readouterr().err
    assert words in message


def test_memory_is_read_with_its_unit():
    assert parse_memory("80GiB") == 80 * GIB
    assert parse_memory(" 1.5 GB ") == 1_500_000_000
    with pytest.raises(ConfigError, match="80"):
        parse_memory("80 gigabytes")


def test_arithmetic_counts_products_convolutions_and_loops():
    def work(x: jax.Array, kernel: jax.Array, w: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        rows = y.reshape(-1, 6)
        rows = jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), rows, None, 7)[0]
        return jax.lax.cond(rows.sum() > 0, lambda h: h @ w, lambda h: h, rows)

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 8, 8, 4), (3, 3, 4, 6), (6, 6))]
    rows = 2 * 4 * 4
    assert flops.count(jax.make_jaxpr(work)(*shapes).jaxpr) == 2 * rows * 6 * (9 * 4) + 8 * 2 * rows * 6 * 6


def test_a_backward_pass_costs_two_forward_passes_and_remat_one_more():
    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.tanh(x @ w) @ w).sum()

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((16, 16), (4, 16))]
    product = 2 * 4 * 16 * 16
    assert flops.count(jax.make_jaxpr(loss)(*shapes).jaxpr) == 2 * product
    # Not to x, which learns nothing.
    assert flops.count(jax.make_jaxpr(jax.grad(loss))(*shapes).jaxpr) == 5 * product
    again = flops.count(jax.make_jaxpr(jax.grad(jax.checkpoint(loss)))(*shapes).jaxpr)
    assert 6 * product <= again <= 7 * product


@pytest.mark.parametrize("name", ["paper_a100x4", "a100x64", "baseline"])
def test_a_cluster_s_config_names_its_devices_and_divides_its_batch(name: str):
    config = load_config(name)
    devices = config.mesh.data * config.mesh.fsdp * config.mesh.tensor
    assert config.name == name and config.model == load_config("published").model
    assert on_devices(config, devices) == (config, [])


def test_a_larger_batch_sees_the_samples_that_were_published():
    """Epochs, samples in the average's horizon, and the square-root rule for Adam's learning rate."""
    paper, large = (load_config(name).train for name in ("paper_a100x4", "a100x64"))
    assert (paper.epochs, paper.batch_size, paper.learning_rate) == (500, 4, 1e-5)
    ratio = large.batch_size / paper.batch_size
    assert large.epochs == paper.epochs
    assert large.learning_rate == pytest.approx(paper.learning_rate * ratio**0.5)
    assert large.ema_decay == pytest.approx(paper.ema_decay**ratio, abs=1e-4)


def test_the_baseline_trains_what_its_public_code_trains(tiny: Config):
    """That code freezes every parameter whose name has neither "connector" nor "motion" in it."""
    names = read_fixture()["parameters"]
    placed, problems = place(names, JOINT)
    shapes = joint_model(replace(tiny, model=reference_config(tiny)), "float32")[1]
    wanted = {placed[name][0] for name in placed if "connector" in name or "motion" in name}
    found = set(flatten(select(shapes, load_config("baseline").train.trainable)[0]))
    assert not problems and found == wanted
    assert {path.split("/")[0] for path in found} == {"connector", "environment_encoder", "unet"}


def test_the_baseline_s_batches_and_length_are_its_authors_and_see_no_maps(tiny: Config):
    """Eight processes, one clip each, two batches per update, 1,000 epochs. A sample whose map_mask is False gets
    exactly the model without maps (tests/models/test_networks.py)."""
    config = load_config("baseline")
    train = config.train
    assert (config.mesh, train.batch_size, train.accumulate) == (MeshConfig(data=8), 16, 2)
    assert (train.epochs, train.steps, train.learning_rate, train.schedule) == (1000, 0, 1e-5, "constant")
    assert (train.ema_decay, train.warmup_steps, train.clip_norm, train.weight_decay) == (0.9999, 0, 1.0, 1e-2)
    batch = cast(Batch, fake_batch(tiny, 16))
    null_text = {name: text[0] for name, text in batch["text"].items()}
    schedules = PerModality(audio=AUDIO_SCHEDULE, video=VIDEO_SCHEDULE)
    mask = draw(batch, null_text, dropout_rates(train), jax.random.key(0), schedules, train).map_mask
    assert mask is not None and not mask.any()


@pytest.mark.parametrize("name", ["a100x64.sbatch", "kubernetes.yaml"])
def test_xla_knows_the_flags_of_the_cluster_files(name: str):
    """XLA ends a process that gives it an unknown flag."""
    flags = set(re.findall(r"--xla_\w+=\w+", (CLUSTER / name).read_text()))
    assert len(flags) >= 5
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
