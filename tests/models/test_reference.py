"""The joint model against every tensor of the public baseline, and the conversion that its weights go through."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.denoiser import DenoiserInputs
from con360av_jax.errors import CheckpointError
from con360av_jax.models.functional import apply, flatten
from convert.rules import Rule, Skip, conv2d, to_jax, to_torch, under
from convert.tables.joint import JOINT
from tests.support.reference_weights import (
    Reference,
    baseline_weights,
    read_fixture,
    reference_model,
)

MODULE, NETWORK = 1e-5, 1e-4


@pytest.fixture(scope="module")
def reference(tiny: Config) -> Reference:
    return reference_model(tiny)


@pytest.fixture(scope="module")
def found(reference: Reference) -> dict[str, np.ndarray]:
    """All outputs and taps under the fixture's names, in our layout."""
    timesteps = {
        kind: {name: jnp.asarray(reference.settings[f"timestep_{name}{kind}"], jnp.int32) for name in reference.latents}
        for kind in ("", "_con")
    }

    # Without LLVM's optimiser, for a faster compile; the sampler's test runs the joint model with it.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(params, latents, text, clean_estimates, timesteps):
        denoise, taps = partial(apply, reference.graphdef, params), {}
        inputs = DenoiserInputs(
            latents=latents,
            timesteps=timesteps[""],
            text=text,
            clean_estimates=clean_estimates,
            connector_timesteps=timesteps["_con"],
        )
        joint = denoise(inputs, taps=taps)
        alone = {name: denoise(replace(inputs, modalities=(name,)))[name] for name in latents}
        return joint, alone, taps

    joint, alone, taps = run(reference.params, reference.latents, reference.text, reference.clean_estimates, timesteps)
    results = {f"joint_{name}": value for name, value in joint.items()}
    results |= {f"{name}_only": value for name, value in alone.items()}
    for path, value in taps.items():
        kind, name, stage = path.split("/")
        value = value[:, 0] if name == "audio" else value
        tap = f"connector_out_{name}.{stage}" if kind.startswith("env") else f"connector_in_{name}.{stage}"
        results[f"tap/{tap.replace('_2', '.2').replace('_3', '.3').replace('_0', '.0').replace('_1', '.1')}"] = value
    return {name: np.asarray(value) for name, value in results.items()}


def test_every_stored_tensor_is_compared(reference: Reference, found: dict[str, np.ndarray]):
    assert set(found) == {name for name in reference.outputs if not name.startswith("sampler/")}


@pytest.mark.parametrize(("kind", "tolerance"), [("tap/", MODULE), ("joint_", NETWORK), ("_only", NETWORK)])
def test_joint_model_reproduces_the_baseline(
    reference: Reference, found: dict[str, np.ndarray], kind: str, tolerance: float
):
    errors = {
        name: float(np.linalg.norm(found[name] - wanted) / np.linalg.norm(wanted))
        for name, wanted in reference.outputs.items()
        if kind in name and name in found
    }
    assert errors
    assert {name: error for name, error in errors.items() if not error <= tolerance} == {}


def test_conversion_and_back_gives_the_same_bytes(reference: Reference):
    shapes = {name: tuple(shape) for name, shape in read_fixture()["parameters"].items()}
    weights = baseline_weights(read_fixture()["parameters"])
    params = {path: np.asarray(leaf) for path, leaf in flatten(reference.params).items()}
    back = to_torch(params, JOINT, shapes)
    assert back.keys() == weights.keys()
    for name, weight in weights.items():
        assert back[name].tobytes() == weight.tobytes() and back[name].shape == weight.shape, name


TABLE = (
    Rule(r"(conv)\.weight", r"\1.kernel", conv2d),
    Rule(r"b", "b"),
    Rule(r"c|b2?", "b"),
    Skip(r"n", because="-", formula=np.zeros),
)
WANTED = {"conv/kernel": (3, 3, 2, 4), "b": (4,), "missing": (1,)}


def test_conversion_error_lists_every_problem_at_once():
    source = {"conv.weight": np.zeros((4, 2, 3, 5)), "b": np.zeros(4), "c": np.zeros(4), "n": np.zeros(1)}
    source |= {"b2": np.zeros(4), "stranger": np.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        to_jax(source, TABLE, WANTED)
    for problem in (
        "5 problems",
        "b: several entries apply",
        "stranger: no entry applies",
        "b2 -> b: already filled",
        "conv.weight -> conv/kernel: shape (3, 5, 2, 4) given, (3, 3, 2, 4) wanted",
        "missing: no tensor for it",
    ):
        assert problem in str(caught.value)


def test_optional_paths_may_stay_unfilled_and_skipped_names_do_not_appear():
    source = {"conv.weight": np.arange(72.0).reshape(4, 2, 3, 3), "c": np.ones(4), "n": np.zeros(1)}
    filled = to_jax(source, TABLE, WANTED, optional="missing")
    assert filled.keys() == {"conv/kernel", "b"}
    assert filled["conv/kernel"][1, 2, 0, 3] == source["conv.weight"][3, 0, 1, 2]


def test_a_table_below_a_prefix_matches_only_there():
    (rule,) = under("unet.a", "unet/audio", TABLE[:1])
    assert isinstance(rule, Rule)
    assert rule.path("unet.a.conv.weight") == "unet/audio/conv/kernel"
    assert rule.path("unetXa.conv.weight") is None
