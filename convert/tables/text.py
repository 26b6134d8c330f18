"""The text encoders: transformers' CLIPTextModel and ClapTextModelWithProjection."""

import numpy as np

from con360av_jax.errors import CheckpointError
from convert.rules import Rule, Shape, Skip, Table, linear


def position_ids(shape: Shape) -> np.ndarray:
    """The numbers of the positions, 0, 1, 2, ..., along the last axis, int64; raises ValueError if there is no axis."""
    if not shape:
        raise ValueError("no axes, wanted (1, tokens)")
    return np.broadcast_to(np.arange(shape[-1], dtype=np.int64), shape)


def token_type_ids(shape: Shape) -> np.ndarray:
    """Zeros, int64: the type of every token."""
    return np.zeros(shape, np.int64)


# transformers 5 saves CLIPTextModel without the prefix "text_model." that published files have.
CLIP_TEXT: Table = (
    Rule(r"(?:text_model\.)?(embeddings\.(?:token|position)_embedding)\.weight", r"\1.embedding"),
    Rule(r"(?:text_model\.)?(encoder\.layers\.\d+\.layer_norm[12]|final_layer_norm)\.weight", r"\1.scale"),
    Rule(r"(?:text_model\.)?(encoder\.layers\.\d+\.(?:self_attn|mlp)\.\w+)\.weight", r"\1.kernel", linear),
    Rule(r"(?:text_model\.)?((?:encoder\.layers\.\d+\..*|final_layer_norm)\.bias)", r"\1"),
    Skip(
        r"(?:text_model\.)?embeddings\.position_ids",
        because="0, 1, 2, ...: counted when a caption is read",
        formula=position_ids,
    ),
)

CLAP_TEXT: Table = (
    Rule(r"(text_model\.embeddings\.\w+_embeddings)\.weight", r"\1.embedding"),
    Rule(r"(text_model\..*LayerNorm)\.weight", r"\1.scale"),
    Rule(
        r"(text_model\.(?:encoder\.layer\.\d+|pooler)\.(?:.*\.)?(?:query|key|value|dense))\.weight",
        r"\1.kernel",
        linear,
    ),
    Rule(r"(text_projection\.linear[12])\.weight", r"\1.kernel", linear),
    Rule(r"(text_(?:model|projection)\..*\.bias)", r"\1"),
    Skip(
        r"text_model\.embeddings\.position_ids",
        because="0, 1, 2, ...: RoBERTa counts positions from the caption",
        formula=position_ids,
    ),
    Skip(
        r"text_model\.embeddings\.token_type_ids",
        because="zeros: there is one token type",
        formula=token_type_ids,
    ),
)


def skipped(name: str, shape: Shape) -> np.ndarray:
    """The int64 tensor (1, tokens) that the tables skip under `name`, as the originals store it.

    Raises CheckpointError for any other name.
    """
    if name.endswith("position_ids"):
        return position_ids(shape)
    if name.endswith("token_type_ids"):
        return token_type_ids(shape)
    raise CheckpointError(f"{name} is no tensor that the text tables skip: position_ids and token_type_ids are")
