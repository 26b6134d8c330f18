"""The mesh, the rules that split parameters over it, and their explained errors; eight simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from con360av_jax.config.settings import Config, MeshConfig
from con360av_jax.errors import ShardingError
from con360av_jax.models.functional import Params, abstract, count, unflatten
from con360av_jax.models.joint import JointModel
from con360av_jax.sharding import (
    RULES,
    batch_sharding,
    check_batch_size,
    make_mesh,
    replicate,
    shardings_for,
)

EIGHT = MeshConfig(data=2, fsdp=2, tensor=2)


@pytest.fixture(scope="module")
def joint_shapes(tiny: Config) -> Params:
    """Shapes of the joint model's parameters at the tiny width."""
    return abstract(lambda rngs: JointModel(tiny.model, rngs=rngs))[1]


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


@pytest.mark.parametrize("config", [MeshConfig(), EIGHT, MeshConfig(fsdp=8), MeshConfig(data=2)])
def test_mesh_has_the_axes_that_were_asked_for(config: MeshConfig):
    mesh = make_mesh(config)
    assert dict(mesh.shape) == {"data": config.data, "fsdp": config.fsdp, "tensor": config.tensor}


@pytest.mark.parametrize("config", [MeshConfig(data=9), MeshConfig(data=0)])
def test_mesh_that_the_machine_does_not_have_is_refused(config: MeshConfig):
    with pytest.raises(ShardingError, match="8 are here"):
        make_mesh(config)


@pytest.mark.parametrize(
    ("path", "sizes", "spec"),
    [
        ("unet/audio/mid/attn1/to_q/kernel", (16, 16), P("fsdp", "tensor")),
        ("unet/audio/mid/attn1/to_out/kernel", (16, 16), P("tensor", "fsdp")),
        ("unet/audio/mid/ff/proj_in/proj/kernel", (16, 128), P("fsdp", "tensor")),
        ("unet/audio/mid/ff/proj_out/kernel", (64, 16), P("tensor", "fsdp")),
        ("unet/video/down/0/conv1/kernel", (3, 3, 16, 32), P(None, None, None, "fsdp")),
        ("unet/video/conv_in/kernel", (3, 3, 4, 16), P(None, None, None, "fsdp")),
        ("unet/video/conv_out/kernel", (3, 3, 16, 3), P()),
        ("unet/video/norm/scale", (16,), P()),
        ("film/audio/0/kernel", (16, 32), P(None, "fsdp")),
        ("connector/audio/up_0/sequence_ff/proj_in/proj/kernel", (16, 128), P("fsdp", "tensor")),
        ("map_encoder/lstm/hidden/kernel", (16, 64), P()),
        ("map_encoder/lstm/bias", (7,), P()),
    ],
)
def test_rules_split_each_kind_of_parameter(path: str, sizes: tuple[int, ...], spec: P):
    found = jax.tree.leaves(shardings_for(unflatten({path: shape(*sizes)}), make_mesh(EIGHT)))
    assert [sharding.spec for sharding in found] == [spec]


@pytest.mark.parametrize("config", [EIGHT, MeshConfig(fsdp=8), MeshConfig(fsdp=4, tensor=2)])
def test_every_parameter_of_the_joint_model_has_a_rule_that_fits(joint_shapes: Params, config: MeshConfig):
    found = shardings_for(joint_shapes, make_mesh(config))
    assert jax.tree.structure(found) == jax.tree.structure(joint_shapes)


def test_most_of_the_joint_model_is_split(joint_shapes: Params):
    mesh = make_mesh(EIGHT)
    shardings = jax.tree.leaves(shardings_for(joint_shapes, mesh))
    whole = sum(
        leaf.size for leaf, at in zip(jax.tree.leaves(joint_shapes), shardings, strict=True) if at.is_fully_replicated
    )
    assert whole < 0.1 * count(joint_shapes)


def test_first_matching_rule_wins():
    rules = ((r"a/.*", P("fsdp")), (r".*", P()))
    found = shardings_for({"a": {"b": shape(4)}, "c": shape(4)}, make_mesh(EIGHT), rules)
    assert found["a"]["b"].spec == P("fsdp")
    assert found["c"].spec == P()


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (
            {"head/conv/kernel": (3, 3, 16, 3)},
            r"^head\.conv\.kernel: dim 3 is 3, not divisible by fsdp=2; replicate it$",
        ),
        ({"head/table": (8,)}, r"^head\.table: no sharding rule matches; add one$"),
        ({"a/kernel": (8, 3), "b/table": (8,), "c/kernel": (8, 5)}, r"^a\.kernel: .* \(and 2 more\)$"),
        ({"a/to_q/kernel": (8,)}, r"to_q\.kernel: has 1 dimensions"),
    ],
    ids=["indivisible", "no rule", "every problem is counted", "too many dimensions"],
)
def test_parameters_that_cannot_be_split_are_named_with_what_to_do(shapes: dict, said: str):
    with pytest.raises(ShardingError, match=said):
        shardings_for(unflatten({path: shape(*sizes) for path, sizes in shapes.items()}), make_mesh(EIGHT))


def test_arrays_survive_being_split():
    mesh = make_mesh(EIGHT)
    params = {"attn1": {"to_q": {"kernel": jnp.arange(64.0).reshape(8, 8), "bias": jnp.arange(8.0)}}}
    params = {"unet": params}
    placed = jax.device_put(params, shardings_for(params, mesh))
    kernel = placed["unet"]["attn1"]["to_q"]["kernel"]
    assert {part.data.shape for part in kernel.addressable_shards} == {(4, 4)}
    np.testing.assert_array_equal(kernel, params["unet"]["attn1"]["to_q"]["kernel"])


def test_batch_is_split_over_data_and_fsdp():
    mesh = make_mesh(EIGHT)
    x = jax.device_put(jnp.arange(24.0).reshape(8, 3), batch_sharding(mesh))
    assert {part.data.shape for part in x.addressable_shards} == {(2, 3)}
    assert jax.device_put(x, replicate(mesh)).is_fully_replicated


def test_batch_that_does_not_divide_is_refused():
    check_batch_size(8, make_mesh(EIGHT))
    with pytest.raises(ShardingError, match="multiple of 4"):
        check_batch_size(6, make_mesh(EIGHT))
    with pytest.raises(ShardingError, match="data=2 x fsdp=2 x accumulate=4; use a multiple of 16"):
        check_batch_size(8, make_mesh(EIGHT), accumulate=4)


def test_rules_replicate_only_what_is_small():
    """A catch-all that replicates would hide a forgotten parameter."""
    assert not any(pattern == ".*" for pattern, _ in RULES)
