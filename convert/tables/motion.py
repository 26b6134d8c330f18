"""Motion modules alone: diffusers' MotionAdapter and AnimateDiff's own files, to paths of the joint model."""

import math
from dataclasses import replace

import numpy as np

from con360av_jax.models.motion import frame_positions
from convert.rules import Rule, Shape, Skip, Table, linear

_PLACE = r"(?P<place>(?:(?:down|up)_blocks\.\d+|mid_block)\.motion_modules\.\d+)"


def frame_encoding(shape: Shape) -> np.ndarray:
    """The positional encoding (1, frames, width) that motion modules add, float32.

    Raises ValueError for a shape of other axes or of an odd width.
    """
    if len(shape) != 3 or shape[0] != 1 or shape[2] % 2:
        raise ValueError(f"the shape {shape}, wanted (1, frames, even width)")
    return frame_positions(shape[1], shape[2])[None]


def computed(pattern: str) -> Skip:
    """The entry of a positional encoding's table of numbers under the names that match `pattern`."""
    return Skip(pattern, because="computed from its formula (con360av_jax/models/motion.py)", formula=frame_encoding)


def _at_every_place(prefix: str, inside: str, table: Table) -> Table:
    """`table` for names that continue with `inside` after a motion module's place; targets go below unet/video."""
    return tuple(
        Rule(f"{prefix}{_PLACE}{inside}{entry.pattern}", rf"unet.video.\g<place>.{entry.target}", entry.layout)
        if isinstance(entry, Rule)
        else replace(entry, pattern=f"{prefix}{_PLACE}{inside}{entry.pattern}")
        for entry in table
    )


# Names that both kinds of file share, below a motion module and below its transformer block.
_MODULE: Table = (
    Rule(r"\.norm\.weight", "norm.scale"),
    Rule(r"\.norm\.bias", "norm.bias"),
    Rule(r"\.(?P<layer>proj_in|proj_out)\.weight", r"\g<layer>.kernel", linear),
    Rule(r"\.(?P<layer>proj_in|proj_out)\.bias", r"\g<layer>.bias"),
)
_BLOCK = r"\.(?P<block>transformer_blocks\.\d+)"
_FEED_FORWARD: Table = (
    Rule(rf"{_BLOCK}\.ff\.net\.0\.proj\.weight", r"\g<block>.ff.proj_in.proj.kernel", linear),
    Rule(rf"{_BLOCK}\.ff\.net\.0\.proj\.bias", r"\g<block>.ff.proj_in.proj.bias"),
    Rule(rf"{_BLOCK}\.ff\.net\.2\.weight", r"\g<block>.ff.proj_out.kernel", linear),
    Rule(rf"{_BLOCK}\.ff\.net\.2\.bias", r"\g<block>.ff.proj_out.bias"),
)


def _attention(source: str, target: str) -> Table:
    return (
        Rule(rf"{_BLOCK}\.{source}\.(?P<layer>to_[qkv])\.weight", rf"\g<block>.{target}.\g<layer>.kernel", linear),
        Rule(rf"{_BLOCK}\.{source}\.to_out\.0\.weight", rf"\g<block>.{target}.to_out.kernel", linear),
        Rule(rf"{_BLOCK}\.{source}\.to_out\.0\.bias", rf"\g<block>.{target}.to_out.bias"),
    )


def _norm(source: str, target: str) -> Table:
    return (
        Rule(rf"{_BLOCK}\.{source}\.weight", rf"\g<block>.{target}.scale"),
        Rule(rf"{_BLOCK}\.{source}\.bias", rf"\g<block>.{target}.bias"),
    )


MOTION_ADAPTER: Table = _at_every_place(
    "",
    "",
    (
        *_MODULE,
        *_FEED_FORWARD,
        *_attention("attn1", "attn1"),
        *_attention("attn2", "attn2"),
        *_norm("norm1", "norm1"),
        *_norm("norm2", "norm2"),
        *_norm("norm3", "norm3"),
        computed(rf"{_BLOCK}\.pos_embed\.pe"),
    ),
)

# Files saved from a parallel training begin every name with "module.".
ANIMATEDIFF: Table = _at_every_place(
    r"(?:module\.)?",
    r"\.temporal_transformer",
    (
        *_MODULE,
        *_FEED_FORWARD,
        *_attention(r"attention_blocks\.0", "attn1"),
        *_attention(r"attention_blocks\.1", "attn2"),
        *_norm(r"norms\.0", "norm1"),
        *_norm(r"norms\.1", "norm2"),
        *_norm("ff_norm", "norm3"),
        computed(rf"{_BLOCK}\.attention_blocks\.[01]\.pos_encoder\.pe"),
    ),
)


def skipped(shape: Shape) -> np.ndarray:
    """The positional encoding (1, frames, width) that the tables skip, in float32 with the bytes that torch gives it.

    p[t, 2i] = sin(t w_i), p[t, 2i+1] = cos(t w_i), w_i = 10000^(-2i / width). The model computes it in float64 before
    rounding, which differs in the last bits.
    """
    import torch

    _, frames, width = shape
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(frames)[:, None] * frequencies
    return torch.stack([torch.sin(angles), torch.cos(angles)], dim=-1).flatten(1)[None].numpy()
