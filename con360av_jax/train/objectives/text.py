"""Contrastive training of a text encoder with the frames or the log-mels that its captions describe.

(1) score        s_ij = a <u_i, v_j>   u: caption, v: frame or log-mel, both of unit length; a: a trained factor
(2) loss         mean_i (CE(s_i., i) + CE(s_.i, i)) / 2   over a batch, without other rows of the same caption
(3) retrieval    share of captions whose own frame or log-mel has the highest score in the batch

u is the last state of a CLIP encoder at the end of its caption, or the output of a CLAP encoder. The tower that makes
v (models/contrast.py) is no part of a base. With gradient accumulation a batch is that of one accumulation step.
Sources: Radford et al. 2021 (CLIP), section 2.3; Wu et al. 2023 (CLAP), section 3.1.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from con360av_jax.base.networks import pixels, text_function
from con360av_jax.base.parts import part_factory
from con360av_jax.config.pretraining import Part
from con360av_jax.config.settings import Config
from con360av_jax.models import functional
from con360av_jax.models.contrast import ContrastTower, unit
from con360av_jax.models.functional import Params
from con360av_jax.models.judge import log_mel_input, resized
from con360av_jax.train.objectives import unet_audio, vae_video
from con360av_jax.train.objectives.objective import Batch, Keys, Objective, Sums

EXAMPLES_PER_SCENE = 4
"""Training examples of one still or one scene's audio: to make it takes longer than a step."""
UNITS = {"retrieval": "", "chance": ""}


def video(config: Config) -> Objective:
    """Returns the objective of the text encoder of the video U-Net, on stills."""
    return _objective("text_video", config)


def audio(config: Config) -> Objective:
    """Returns the objective of the text encoder of the audio U-Net, on the log-mels of whole clips."""
    return _objective("text_audio", config)


def _objective(part: Part, config: Config) -> Objective:
    modality = part.removeprefix("text_")
    shown, tower = modality == "video", f"tower_{modality}"
    embed, size = text_function(modality, config.model), getattr(config.pretrain, part).size
    graphdef, _ = functional.abstract(part_factory(tower, config))
    example = vae_video.frame if shown else unet_audio.mel

    def scores(params: Params, batch: Batch) -> Float[Array, "caption row"]:
        text = embed(params[part], batch["ids"], batch["mask"])
        text = unit(at_end(text, batch["mask"])) if shown else text
        network: ContrastTower = functional.merge(graphdef, params[tower])  # pyright: ignore[reportAssignmentType]
        x = resized(pixels(batch["frames"]), size) if shown else log_mel_input(batch["mel"])
        return network.scale() * text @ network(x).T

    def loss(params: Params, batch: Batch, keys: Keys) -> tuple[Array, dict[str, Array]]:
        found = contrast(scores(params, batch), same_captions(batch["ids"]))
        return found, {"loss": found}

    def measure(params: Params, batch: Batch) -> tuple[Sums, dict[str, Array]]:
        found, same = scores(params, batch), same_captions(batch["ids"])
        rows = jnp.float32(len(found))
        best = jnp.argmax(jnp.where(same, -jnp.inf, found), axis=1)
        hits = jnp.sum((best == jnp.arange(len(found))).astype(jnp.float32))
        chance = jnp.sum(1 / jnp.sum(jnp.logical_not(same), axis=1))
        return {"loss": rows * contrast(found, same), "hits": hits, "chance": chance, "rows": rows}, {}

    return Objective(
        part=part, trains=(part, tower), fields=("video",) if shown else ("mel",),
        scenes="stills" if shown else "audio", text=modality, example=example, examples_per_scene=EXAMPLES_PER_SCENE,
        whole=example, loss=loss, measure=measure, summarise=summarise, units=UNITS,
    )  # fmt: skip


def summarise(sums: Mapping[str, float]) -> dict[str, float]:
    """Returns the loss (2), the retrieval (3), and the retrieval by chance."""
    rows = sums["rows"]
    return {"loss": sums["loss"] / rows, "retrieval": sums["hits"] / rows, "chance": sums["chance"] / rows}


def contrast(scores: Float[Array, "row row"], same: Bool[Array, "row row"]) -> Float[Array, ""]:
    """Equation (2); pairs of different rows for which `same` is true are left out."""
    scores, own = jnp.where(same, -jnp.inf, scores), jnp.arange(len(scores))
    entropy = optax.softmax_cross_entropy_with_integer_labels
    return jnp.mean(entropy(scores, own) + entropy(scores.T, own)) / 2


def same_captions(ids: Int[Array, "row token"]) -> Bool[Array, "row row"]:
    """Whether two different rows have equal captions."""
    equal = jnp.all(ids[:, None] == ids[None], axis=-1)
    return equal & jnp.logical_not(jnp.eye(len(ids), dtype=bool))


def at_end(states: Float[Array, "row token channel"], mask: Int[Array, "row token"]) -> Float[Array, "row channel"]:
    """The state of each caption's last token."""
    last = jnp.sum(mask, axis=1) - 1
    return jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]
