"""Training of the audio judge (models/judge.py) on log-mels of scenes that are blurred, noisy, louder or quieter.

(3) loss        sum_k BCE(heard_k) + envelope_weight mean_t sum_k BCE(envelope_kt),  mean over rows;  k: classes
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from con360av_jax.base.parts import part_factory
from con360av_jax.config.settings import Config
from con360av_jax.models import functional
from con360av_jax.models.functional import Params
from con360av_jax.models.judge import STEP, Heard, heard_logits
from con360av_jax.scenes.scene import CLASSES
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

PART = "judge_audio"
UNITS = {"heard_f1": "", "envelope_agreement": ""}
USES = 8
"""Training examples of one scene's audio, each changed in another way: to make it takes as long as a step."""
_FLOOR = -11.5  # nats


def objective(config: Config) -> Objective:
    """Returns the objective."""
    settings = config.pretrain.judge_audio
    graphdef, _ = functional.abstract(part_factory(PART, config))

    def judged(params: Params, batch: Batch) -> Heard:
        return functional.apply(graphdef, params[PART], batch["mel"])

    def loss(params: Params, batch: Batch, keys: Keys) -> tuple[Array, dict[str, Array]]:
        found = judged(params, batch)
        terms = {
            "heard": jnp.mean(jnp.sum(cross_entropy(heard_logits(found.scores), batch["heard"]), -1)),
            "envelope": jnp.mean(jnp.sum(cross_entropy(found.envelope, batch["envelope"]), -1)),
        }
        total = terms["heard"] + settings.envelope_weight * terms["envelope"]
        return total, {"loss": total, **terms}

    def measure(params: Params, batch: Batch) -> tuple[Sums, dict[str, Array]]:
        found, there = judged(params, batch), batch["heard"]
        total, _ = loss(params, batch, jnp.zeros((len(there), 2), jnp.uint32))
        weight = jnp.broadcast_to(there[:, None], found.envelope.shape)
        sums = {
            "loss": total * len(there),
            "rows": jnp.float32(len(there)),
            **class_sums(heard_logits(found.scores) > 0, there > 0),
            **envelope_sums(jax.nn.sigmoid(found.envelope), batch["envelope"], weight),
        }
        return sums, {}

    return Objective(
        part=PART, trains=(PART,), fields=("mel", "classes", "envelopes"), scenes="audio",
        example=example, examples_per_scene=USES, whole=whole, loss=loss, measure=measure, summarise=summarise,
        units=UNITS,
    )  # fmt: skip


def summarise(sums: Mapping[str, float]) -> dict[str, float]:
    """Returns the loss (3), F1 of classes heard (1) and agreement of envelopes of the classes that are there (2)."""
    return {"loss": sums["loss"] / sums["rows"], "heard_f1": f1(sums), "envelope_agreement": agreement(sums)}


def whole(arrays: Mapping[str, Any], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns the log-mel of a scene (scenes/sources.py) and the truth of it, by class."""
    there = np.array([name in arrays["classes"] for name in CLASSES], np.float32)
    return {"mel": arrays["mel"], "heard": there, "envelope": arrays["envelopes"][::STEP]}


def example(arrays: Mapping[str, Any], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns `whole` with a log-mel as a decoder, a sampler or a vocoder may leave it."""
    found = whole(arrays, random)
    mel = smeared(found["mel"], random)
    mel = mel + random.uniform(0, 0.5) * clouds((*mel.shape, 1), int(random.integers(8, 33)), random)[..., 0]
    mel = mel + random.uniform(0, 0.4) * random.standard_normal(mel.shape).astype(np.float32)
    mel = np.maximum(mel + random.uniform(-1, 1), _FLOOR + random.uniform(0, 2))
    return found | {"mel": mel.astype(np.float32)}
