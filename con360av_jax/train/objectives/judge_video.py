"""Training of the video judge (models/judge.py) on stills of scenes that are blurred, noisy or off in brightness.

(3) loss        sum_k BCE(in view_k) + sum_(k in view) (cell_weight CE(cell_k) + position_weight |p_k - p'_k|_1
                + envelope_weight BCE(envelope_k)) + place_weight CE(place),  mean over rows;  k: classes
                CE(cell_k): - log a_u at the cell u that the object lies in, without which positions are learnt slowly
(4) direction   mean angle between the judged and the true direction of the objects in view, degrees
(5) place       share of right places
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from con360av_jax.base.networks import pixels
from con360av_jax.base.parts import part_factory
from con360av_jax.config.settings import Config
from con360av_jax.models import functional
from con360av_jax.models.functional import Params
from con360av_jax.models.judge import Seen, cell_of
from con360av_jax.scenes.scene import CLASSES
from con360av_jax.scenes.textures import PALETTES
from con360av_jax.train.objectives.judgement import (
    agreement,
    class_sums,
    clouds,
    cross_entropy,
    envelope_sums,
    f1,
    smeared,
)
from con360av_jax.train.objectives.objective import Batch, Keys, Objective, Sums

PART = "judge_video"
UNITS = {"in_view_f1": "", "found": "", "direction_error": "degrees", "place": "", "envelope_agreement": ""}
USES = 6
"""Training examples of one still, each blurred in another way: to render it takes as long as a step."""


def objective(config: Config) -> Objective:
    """Returns the objective."""
    settings = config.pretrain.judge_video
    graphdef, _ = functional.abstract(part_factory(PART, config))

    def judged(params: Params, batch: Batch) -> Seen:
        return functional.apply(graphdef, params[PART], pixels(batch["frames"]))

    def loss(params: Params, batch: Batch, keys: Keys) -> tuple[Array, dict[str, Array]]:
        seen, there = judged(params, batch), batch["in_view"]
        distance = jnp.sum(jnp.abs(seen.position - batch["position"]), -1)
        cell = cell_of(batch["position"], settings.size >> (len(settings.widths) - 1))
        attention = jnp.take_along_axis(seen.attention, cell[:, None], axis=1)[:, 0]
        place = jnp.take_along_axis(jax.nn.log_softmax(seen.place), batch["place"][:, None], axis=1)
        terms = {
            "in_view": jnp.mean(jnp.sum(cross_entropy(seen.in_view, there), -1)),
            "cell": -jnp.mean(jnp.sum(there * attention, -1)),
            "position": jnp.mean(jnp.sum(there * distance, -1)),
            "envelope": jnp.mean(jnp.sum(there * cross_entropy(seen.envelope, batch["envelope"]), -1)),
            "place": -jnp.mean(place),
        }
        weights = {
            "in_view": 1.0,
            "cell": settings.cell_weight,
            "position": settings.position_weight,
            "envelope": settings.envelope_weight,
            "place": settings.place_weight,
        }
        total = sum((weights[name] * term for name, term in terms.items()), start=jnp.float32(0))
        return total, {"loss": total, **terms}

    def measure(params: Params, batch: Batch) -> tuple[Sums, dict[str, Array]]:
        seen, there = judged(params, batch), batch["in_view"]
        angles = between(seen.position, batch["position"], batch["fields"])
        total, _ = loss(params, batch, jnp.zeros((len(there), 2), jnp.uint32))
        sums = {
            "loss": total * len(there),
            "rows": jnp.float32(len(there)),
            "angles": jnp.sum(there * angles),
            "places": jnp.sum((jnp.argmax(seen.place, -1) == batch["place"]).astype(jnp.float32)),
            **class_sums(seen.in_view > 0, there > 0),
            **envelope_sums(jax.nn.sigmoid(seen.envelope), batch["envelope"], there),
        }
        return sums, {}

    return Objective(
        part=PART, trains=(PART,), fields=("video", "seen", "place"), scenes="stills",
        example=example, examples_per_scene=USES, whole=whole, loss=loss, measure=measure, summarise=summarise,
        units=UNITS,
    )  # fmt: skip


def summarise(sums: Mapping[str, float]) -> dict[str, float]:
    """Returns the loss (3), F1 of classes in view, the share of objects in view that are found, (4), (5) and (2)."""
    return {
        "loss": sums["loss"] / sums["rows"],
        "in_view_f1": f1(sums),
        "found": sums["hits"] / max(sums["there"], 1.0),
        "direction_error": sums["angles"] / max(sums["there"], 1.0),
        "place": sums["places"] / sums["rows"],
        "envelope_agreement": agreement(sums),
    }


def whole(arrays: Mapping[str, Any], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns the middle frame of a view of a scene (scenes/sources.py) and the truth of it, by class."""
    there, envelope = np.zeros(len(CLASSES), np.float32), np.zeros(len(CLASSES), np.float32)
    position = np.zeros((len(CLASSES), 2), np.float32)
    for item in arrays["seen"]:
        number = CLASSES.index(item.name)
        there[number], position[number], envelope[number] = 1, item.position, item.envelope
    middle = len(arrays["video"]) // 2
    return {
        "frames": arrays["video"][middle],
        "in_view": there,
        "position": position,
        "envelope": envelope,
        "place": np.asarray(list(PALETTES).index(arrays["place"]), np.int32),
        "fields": np.asarray(arrays["viewpoint"][middle][2:], np.float32),
    }


def example(arrays: Mapping[str, Any], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns `whole` with a frame as a decoder or a sampler may leave it."""
    found = whole(arrays, random)
    frame = smeared(found["frames"].astype(np.float32), random)
    frame = frame + random.uniform(0, 12) * clouds(frame.shape, int(random.integers(4, 17)), random)
    if random.random() < 0.5:
        frame = frame + random.uniform(0, 14) * random.standard_normal(frame.shape).astype(np.float32)
    contrast, colour = random.uniform(0.85, 1.15), random.uniform(0.95, 1.05, 3).astype(np.float32)
    frame = (frame - 128) * contrast * colour + 128 + random.uniform(-15, 15)
    return found | {"frames": np.clip(np.rint(frame), 0, 255).astype(np.uint8)}


def between(
    one: Float[Array, "batch class 2"], other: Float[Array, "batch class 2"], fields: Float[Array, "batch 2"]
) -> Float[Array, "batch class"]:
    """Angle between the directions that two positions in a view show, degrees."""

    def ray(position: Array) -> Array:
        sides = position * jnp.tan(fields / 2)[:, None]
        return jnp.concatenate([sides, jnp.ones_like(sides[..., :1])], -1)

    a, b = ray(one), ray(other)
    across = jnp.sqrt(jnp.sum(jnp.square(jnp.cross(a, b)), -1))
    return jnp.degrees(jnp.arctan2(across, jnp.sum(a * b, -1)))
