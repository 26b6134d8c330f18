"""What learns and how: parameters split by path, AdamW with gradient clipping, warm-up, constant or cosine rate."""

import re

import jax
import optax

from con360av_jax.config.settings import TrainConfig
from con360av_jax.errors import ConfigError
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.train.stacking import on_stacks

# Each set contains the one before it; matched against the whole path "a/b/c" of a parameter of the joint model.
TRAINABLE: dict[str, str] = {
    "control": r"(map_encoder|film)/.*",
    "connectors": r"(map_encoder|film|connector|environment_encoder)/.*",
    "motion": r"(map_encoder|film|connector|environment_encoder)/.*|.*motion_modules.*",
    "all": r".*",
}


def select(params: Params, trainable: str) -> tuple[Params, Params]:
    """(trainable, frozen) parts of the joint model's parameters; together they hold every leaf once.

    `trainable` is a name in TRAINABLE or a regular expression of its own. Raises ConfigError if it is neither, or if no
    parameter belongs to the set.
    """
    flat = flatten(params)
    names = ", ".join(TRAINABLE)
    try:
        pattern = re.compile(TRAINABLE.get(trainable, trainable))
    except re.error as error:
        raise ConfigError(f"trainable={trainable!r} is no set ({names}) and no regular expression: {error}") from error
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
    """The inverse of `select`; raises ConfigError if both hold the same parameter."""
    learns, rest = flatten(trainable), flatten(frozen)
    if both := sorted(learns.keys() & rest.keys()):
        raise ConfigError(f"{len(both)} parameters are both trainable and frozen, for example {both[0]}")
    return unflatten({**rest, **learns})


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Rate at an update's number, counted from 0.

    It rises in `warmup_steps` equal steps, none of them 0, then stays, or falls along half a cosine and is 0 from
    update `decay_steps` on.
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
    """How many updates lie behind an optimizer's state; fewer than the run has steps if some were left out."""
    # Adam and the schedule count the same updates.
    return optax.tree.get_all_with_path(state, "count")[0][1]


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) on gradients clipped by their global norm, as in the public baseline.

    Its state holds small parameters' moments as stacks (train/stacking.py).
    """
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(learning_rate(config), b1=0.9, b2=0.999, eps=1e-8, weight_decay=config.weight_decay),
    )

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        # optax raises a float to an integer count, which strict promotion refuses; gradients and moments are float32.
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(updates, state, params)

    return on_stacks(optax.GradientTransformation(chain.init, update))
