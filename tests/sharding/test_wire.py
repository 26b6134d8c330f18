"""What data-parallel training sends between devices: gradients of what is trained, once per step, and nothing else."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from con360av_jax.config.files import save_config
from con360av_jax.config.settings import Config, MeshConfig
from con360av_jax.config.shapes import maps_shape
from con360av_jax.models.functional import abstract, apply, count
from con360av_jax.models.joint import joint_model
from con360av_jax.models.map_encoder import MapEncoder
from con360av_jax.plan.collectives import Collective, collectives
from con360av_jax.plan.requirements import Requirements, measure
from con360av_jax.sharding import batch_sharding, make_mesh, shardings_for
from con360av_jax.train.optimizer import select
from tests.support import tiny_world
from tests.support.paths import ROOT

# Loss, its parts and the counts per range of timesteps: a few numbers.
METRICS_BYTES = 4096


def problems(found: Sequence[Collective], gradient_bytes: int) -> list[str]:
    """What of a program's communication is not the gradients' one reduction."""
    wrong = [f"{one.kind} of {one.payload} bytes at {one.place}" for one in found if one.kind != "all-reduce"]
    wrong += [f"{one.kind} {one.runs} times at {one.place}" for one in found if one.runs != 1 or not one.known]
    total = sum(one.runs * one.payload for one in found)
    # A bias before a softmax has no gradient: a little less than all may be sent.
    if not 0.98 * gradient_bytes <= total <= gradient_bytes + METRICS_BYTES:
        wrong.append(f"{total} bytes are reduced, the gradients have {gradient_bytes}")
    return wrong


def gradient_bytes(config: Config) -> int:
    return 4 * count(select(joint_model(config, "float32")[1], config.train.trainable)[0])


@pytest.fixture(scope="module")
def on_eight(tiny: Config) -> tuple[Config, Requirements]:
    """A step of the published trainable set with little to compile, on eight devices."""
    lean = tiny_world.with_train(tiny_world.lean(tiny), trainable="connectors", batch_size=8)
    config = replace(lean, mesh=MeshConfig(data=8))
    with tiny_world.quick_compiles():
        return config, measure(config)


def test_eight_devices_exchange_gradients_only(on_eight: tuple[Config, Requirements]):
    config, needs = on_eight
    assert problems(needs.collectives, gradient_bytes(config)) == []
    assert {one.group for one in needs.collectives} == {8}


def test_memory_adds_up_to_what_the_program_takes(on_eight: tuple[Config, Requirements]):
    """The rest is the empty caption, the key, the step's number and the metrics."""
    memory = on_eight[1].memory
    parts = memory.trainable + memory.ema + memory.optimizer + memory.frozen + memory.batch + memory.temporaries
    assert 0 <= memory.total - parts < 16_384
    assert memory.trainable == memory.ema == memory.gradients == gradient_bytes(on_eight[0])
    assert memory.temporaries > memory.gradients


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["lean", "tiny"])
def test_64_devices_exchange_gradients_only(whole: bool, tiny: Config, tmp_path: Path):
    """Through the command line, which simulates the devices in a process of its own. The lean config has every kind of
    layer, the whole tiny one more of them."""
    config = tiny if whole else tiny_world.with_train(tiny_world.lean(tiny), trainable="connectors")
    save_config(config, tmp_path / "tiny.json")
    out = tmp_path / "plan.json"
    command = [sys.executable, "-m", "con360av_jax.cli", "plan", str(tmp_path / "tiny.json"), "--devices", "64"]
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    finished = subprocess.run(
        [*command, "--quick", "--out", str(out)], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    plan = json.loads(out.read_text())
    assert (plan["mesh"]["data"], plan["batch_size"], len(plan["changes"])) == (64, 64, 2)
    found = [Collective(**one) for one in plan["needs"]["collectives"]]
    assert problems(found, gradient_bytes(config)) == []
    assert {one.group for one in found} == {64}
    assert "DOES NOT FIT" not in finished.stdout and "64 devices" in finished.stdout


def test_a_batch_in_parts_exchanges_gradients_once(tiny: Config):
    lean = replace(tiny_world.with_train(tiny_world.lean(tiny), batch_size=32), mesh=MeshConfig(data=8))
    with tiny_world.quick_compiles(), tiny_world.without_network():
        whole = measure(lean).collectives
        parts = measure(tiny_world.with_train(lean, accumulate=4)).collectives
    assert problems(whole, gradient_bytes(lean)) == problems(parts, gradient_bytes(lean)) == []


def test_split_parameters_of_the_map_encoder_are_gathered_and_its_rows_stay(tiny: Config):
    """Its loop over frames would send every cell of every map around, frame by frame, if its matrix were cut."""
    split, width = make_mesh(MeshConfig(fsdp=8)), tiny.model.map_encoder
    graphdef, shapes = abstract(lambda rngs: MapEncoder(width, rngs=rngs, dtype=jnp.float32))
    params = {"map_encoder": shapes}
    places = shardings_for(params, split)
    maps = jax.ShapeDtypeStruct((24, *maps_shape(tiny)[:-1], 2), jnp.float32, sharding=batch_sharding(split))
    given = jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), params, places)
    gradient = jax.grad(lambda params, maps: apply(graphdef, params["map_encoder"], maps).sum())
    found = collectives(jax.jit(gradient, out_shardings=places).lower(given, maps).compile().as_text() or "")
    largest = max(4 * leaf.size for leaf in jax.tree.leaves(shapes))
    gathered = [one for one in found if one.kind == "all-gather"]
    assert gathered and {one.kind for one in found} == {"all-gather", "all-reduce"}
    assert all(one.runs == 1 and one.known for one in found)
    assert max(one.payload for one in gathered) <= largest


def compiled(function: Callable[..., jax.Array], mesh: Mesh, out: P, *shapes: tuple[tuple[int, ...], P]) -> str:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec)) for shape, spec in shapes]
    return jax.jit(function, out_shardings=NamedSharding(mesh, out)).lower(*arguments).compile().as_text() or ""


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return make_mesh(MeshConfig(data=8))


def test_a_gathered_activation_is_found(mesh: Mesh):
    """Attention between samples, as a forgotten sharding would give it."""
    found = collectives(compiled(lambda x: jnp.tanh(x) @ jnp.tanh(x).T, mesh, P("data"), ((16, 4), P("data"))))
    assert [(one.kind, one.payload, one.group) for one in found] == [("all-gather", 16 * 4 * 4, 8)]
    assert found[0].sent == 16 * 4 * 4 * 7 / 8
    assert "all-gather of 256 bytes" in problems(found, 256)[0]


def test_samples_that_change_places_are_found(mesh: Mesh):
    found = collectives(compiled(lambda x: jnp.roll(x, 1, axis=0), mesh, P("data"), ((16, 4), P("data"))))
    assert {one.kind for one in found} == {"collective-permute"}
    found = collectives(compiled(lambda x: x * 2.0, mesh, P(None, "data"), ((16, 8), P("data"))))
    assert [(one.kind, one.payload) for one in found] == [("all-to-all", 16 * 8 * 4 // 8)]


def test_a_reduction_is_counted_once_per_turn_of_its_loop(mesh: Mesh):
    def gradient(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.grad(lambda w: jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, None, 5)[0].sum())(w)

    found = collectives(compiled(gradient, mesh, P(), ((16, 4), P("data")), ((4, 4), P())))
    assert [(one.kind, one.payload, one.runs, one.known) for one in found] == [("all-reduce", 64, 5, True)]
    assert found[0].sent == 5 * 2 * 64 * 7 / 8
    assert any("5 times" in problem for problem in problems(found, 320))


def test_gradients_alone_are_what_the_test_wants(mesh: Mesh):
    def gradient(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.grad(lambda w: jnp.tanh(x @ w).sum())(w)

    found = collectives(compiled(gradient, mesh, P(), ((16, 64), P("data")), ((64, 64), P())))
    assert problems(found, 64 * 64 * 4) == []
    assert problems(found, 2 * 64 * 64 * 4) != []


@pytest.mark.parametrize(
    ("line", "kind", "payload", "group"),
    [
        ("(f32[2,3]{1,0}, bf16[5]{0}) all-reduce(%a, %b), replica_groups={{0,1,2,3},{4,5,6,7}}", "all-reduce", 34, 4),
        ("f32[8]{0} all-reduce-start(%a), replica_groups=[2,4]<=[8]", "all-reduce", 32, 4),
        ("(f32[2]{0}, f32[16]{0}) all-gather-start(%a), replica_groups=[1,8]<=[8]", "all-gather", 64, 8),
        ("((f32[1], s8[2]), (f32[8], s8[16])) all-gather-start(%a, %b), replica_groups={}", "all-gather", 48, 8),
        ("f32[4]{0} reduce-scatter(%a), replica_groups=mesh['x'=4,'y'=2] {'y'}", "reduce-scatter", 32, 2),
        ("pred[] all-reduce(%a), replica_groups=mesh['x'=8] {'x':(2)4}", "all-reduce", 1, 4),
        (
            "(bf16[4]{0}, bf16[4]{0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1}}",
            "collective-permute",
            8,
            8,
        ),
    ],
)
def test_every_notation_of_a_collective_is_read(line: str, kind: str, payload: int, group: int):
    text = f"HloModule m, num_partitions=8\n\nENTRY %main (a: f32[2]) -> f32[2] {{\n  %x.1 = {line}\n}}\n"
    (found,) = collectives(text)
    assert (found.kind, found.payload, found.group, found.runs) == (kind, payload, group, 1)


def test_what_only_mentions_a_collective_is_none():
    line = '%f = f32[2]{0} fusion(%all-reduce.3), calls=%c, metadata={op_name="x all-reduce(y)"}'
    text = f"HloModule m, num_partitions=8\n\nENTRY %main (a: f32[2]) -> f32[2] {{\n  {line}\n}}\n"
    assert collectives(text) == []


def test_an_unknown_number_of_turns_is_said():
    text = (
        "HloModule m, num_partitions=8\n\n%body (a: f32[2]) -> f32[2] {\n  %r = f32[2]{0} all-reduce(%a)\n}\n\n"
        "ENTRY %main (a: f32[2]) -> f32[2] {\n  %w = f32[2]{0} while(%a), condition=%c, body=%body\n}\n"
    )
    (found,) = collectives(text)
    assert (found.runs, found.known) == (1, False)
    assert np.isclose(found.sent, 14)
