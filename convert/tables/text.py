"""The text encoders: transformers' CLIPTextModel and ClapTextModelWithProjection."""

import numpy as np

from con360av_jax.errors import CheckpointError
from convert.rules import Rule, Shape, Skip, Table, linear

# transformers 5 saves CLIPTextModel without the prefix "text_model." that published files have.
CLIP_TEXT: Table = (
    Rule(r"(?:text_model\.)?(embeddings\.(?:token|position)_embedding)\.weight", r"\1.embedding"),
    Rule(r"(?:text_model\.)?(encoder\.layers\.\d+\.layer_norm[12]|final_layer_norm)\.weight", r"\1.scale"),
    Rule(r"(?:text_model\.)?(encoder\.layers\.\d+\.(?:self_attn|mlp)\.\w+)\.weight", r"\1.kernel", linear),
    Rule(r"(?:text_model\.)?((?:encoder\.layers\.\d+\..*|final_layer_norm)\.bias)", r"\1"),
    Skip(r"(?:text_model\.)?embeddings\.position_ids", because="0, 1, 2, ...: counted when a caption is read"),
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
    Skip(r"text_model\.embeddings\.position_ids", because="0, 1, 2, ...: RoBERTa counts positions from the caption"),
    Skip(r"text_model\.embeddings\.token_type_ids", because="zeros: there is one token type"),
)


def skipped(name: str, shape: Shape) -> np.ndarray:
    """The int64 tensor (1, tokens) that the tables skip under `name`, as the originals store it.

    Raises CheckpointError for any other name.
    """
    if name.endswith("position_ids"):
        return np.arange(shape[-1], dtype=np.int64)[None]
    if name.endswith("token_type_ids"):
        return np.zeros(shape, np.int64)
    raise CheckpointError(f"{name} is no tensor that the text tables skip: position_ids and token_type_ids are")
