"""Selection of the trained parameters, and their optimizer: AdamW or Muon, gradient clipping, warm-up, decay."""

import re

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from con360av_jax.config.settings import TrainConfig
from con360av_jax.errors import ConfigError
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.sharding import RULES, Rules
from con360av_jax.train.stacking import on_stacks

# Each set contains the one before it; patterns must match the whole path "a/b/c" of a parameter of the joint model.
TRAINABLE: dict[str, str] = {
    "control": r"(map_encoder|film)/.*",
    "connectors": r"(map_encoder|film|connector|environment_encoder)/.*",
    "motion": r"(map_encoder|film|connector|environment_encoder)/.*|.*motion_modules.*",
    "all": r".*",
}
# Output projections of the connectors; FiLM acts in front of them.
CONNECTOR_OUTPUTS = r"connector/[^/]+/[^/]+/proj_out/kernel"


def select(params: Params, trainable: str) -> tuple[Params, Params]:
    """Splits the joint model's parameters into (trainable, frozen); every leaf is in one of them.

    `trainable` is a name in TRAINABLE or a regular expression. Raises ConfigError if it is neither or matches no
    parameter.
    """
    flat = flatten(params)
    names = ", ".join(TRAINABLE)
    try:
        pattern = re.compile(TRAINABLE.get(trainable, trainable))
    except re.error as error:
        raise ConfigError(f"trainable={trainable!r} is none of {names} and no regular expression: {error}") from error
    learns = {path: pattern.fullmatch(path) is not None for path in flat}
    if not any(learns.values()):
        raise ConfigError(
            f"trainable={trainable!r} matches none of the {len(flat)} parameters; give {names} or a regular expression "
            f"for whole paths such as {next(iter(flat))}"
        )
    chosen = {path: leaf for path, leaf in flat.items() if learns[path]}
    rest = {path: leaf for path, leaf in flat.items() if not learns[path]}
    return unflatten(chosen), unflatten(rest)


def merge(trainable: Params, frozen: Params) -> Params:
    """Joins the two parts of `select` again; raises ConfigError if both hold the same parameter."""
    learns, rest = flatten(trainable), flatten(frozen)
    if both := sorted(learns.keys() & rest.keys()):
        raise ConfigError(f"{len(both)} parameters are both trainable and frozen, for example {both[0]}")
    return unflatten({**rest, **learns})


def require_connectors_that_act(trainable: Params, frozen: Params) -> None:
    """Raises ConfigError if Map Encoder or FiLM learn, but only through frozen connectors that are the identity.

    The output projection of a fresh connector is zero: where it stays so, no gradient reaches FiLM.
    """
    outputs = [leaf for path, leaf in flatten(frozen).items() if re.fullmatch(CONNECTOR_OUTPUTS, path)]
    learns = flatten(trainable)
    steers = any(path.startswith(("map_encoder/", "film/")) for path in learns)
    blocked = outputs and not any(re.fullmatch(CONNECTOR_OUTPUTS, path) for path in learns)
    if steers and blocked and not any(bool(jnp.any(leaf != 0)) for leaf in outputs):
        raise ConfigError(
            f"Map Encoder and FiLM would never learn: the {len(outputs)} connectors that they act in are frozen, and "
            "their output projections are zero, as those of a base without trained connectors are; give "
            "--config.train.trainable connectors, or a base with trained connectors"
        )


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates made.

    It rises in `warmup_steps` equal steps, the first above 0, and then stays constant, or falls along half a
    cosine and is 0 from update `decay_steps` on.
    """
    peak, rising = config.learning_rate, config.warmup_steps
    after = optax.constant_schedule(peak)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, config.decay_steps - rising)
    if rising == 0:
        return after
    warmup = optax.linear_schedule(peak / rising, peak, max(rising - 1, 1))
    return optax.join_schedules([warmup, after], [rising])


def updates_made(state: optax.OptState) -> jax.Array:
    """Returns the number of updates behind an optimizer's state; skipped steps made none."""
    # Adam and the schedule count the same updates.
    return optax.tree.get_all_with_path(state, "count")[0][1]


def make_optimizer(config: TrainConfig, rules: Rules = RULES) -> optax.GradientTransformation:
    """Returns the config's optimizer on gradients clipped by global norm.

    adamw: Loshchilov and Hutter 2019, as in the public baseline. muon: momentum made orthogonal by Newton-Schulz steps
    (Jordan et al. 2024) and scaled to the size of AdamW's updates (Liu et al. 2025, arXiv 2502.16982, equation 4), for
    every parameter that is a matrix, and for the kernels of convolutions as matrices from all inputs to outputs;
    vectors get AdamW with Nesterov momentum.

    The state holds the moments of small parameters as stacks (train/stacking.py), by the `rules` that shard it.
    """
    rate = learning_rate(config)
    if config.optimizer == "adamw":
        optimizer = optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=config.weight_decay)
    else:
        optimizer = muon(
            rate,
            weight_decay=config.weight_decay,
            adam_weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=0.2,
        )
    chain = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        # optax raises a float to an integer count, which strict promotion refuses; gradients and moments are float32.
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(updates, state, params)

    return on_stacks(optax.GradientTransformation(chain.init, update), rules)


def _matrices(stacks: optax.Params) -> optax.Params:
    """Axes of the matrix of each member of a stack, (stack, inputs..., outputs); None for stacks of vectors."""

    def axes(leaf: jax.Array) -> MuonDimensionNumbers | None:
        if leaf.ndim < 3:
            return None
        return MuonDimensionNumbers(reduction_axis=tuple(range(1, leaf.ndim - 1)), output_axis=leaf.ndim - 1)

    return jax.tree.map(axes, stacks)
