"""Judges of procedural scenes: small convolutional networks that name what a view shows and what audio contains.

Video judge, for a class k with scores s over the cells u of the last feature map (x_u: centre, d: offset):
(1) attention   a_u = softmax(s_u) over cells
(2) in view     logit = log mean_u exp(s_u) + b
(3) position    p = sum_u a_u (x_u + d_u), right and up, -1 to 1 at the edges of the view
(4) envelope    logit = sum_u a_u e_u, of the loudness that the object shows (scenes/timbres.py, equations 1 to 3)
(5) place       logits from a hidden layer over the mean features and a 4x4 version of the input: norms lose colour
Audio judge, the same over steps of time t of STEP mel frames:
(6) heard       logit = sum_t a_t s_t
(7) envelope    logit e_t of each class at each step
(8) features of a clip   mean over time, and mean absolute difference from one step to the next
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from con360av_jax.models.layers import GroupNorm, conv, linear, zeros

GROUP = 8
"""Channels of each group of a GroupNorm; divides every width."""
STEP = 4
"""Mel frames per step of the audio judge."""
_COARSE = 4  # side of the input's small version
_EPS = 1e-5
_MIDDLE, _RANGE = -6.0, 3.0  # of log-mels, nats, for inputs of about unit variance


class Seen(NamedTuple):
    """Judgement of single frames; one row per frame."""

    in_view: Float[Array, "batch class"]
    """Logits (2)."""
    attention: Float[Array, "batch cell class"]
    """Logarithm of equation (1)."""
    position: Float[Array, "batch class 2"]
    """Position (3) of each class, meaningful where it is in view."""
    envelope: Float[Array, "batch class"]
    """Logits (4)."""
    place: Float[Array, "batch place"]
    """Logits (5)."""
    features: Float[Array, "batch channel"]
    """Mean of the last feature map."""


class Heard(NamedTuple):
    """Judgement of audio; one row per clip."""

    scores: Float[Array, "batch time class"]
    """Scores s of equation (6)."""
    envelope: Float[Array, "batch time class"]
    """Logits (7)."""
    features: Float[Array, "batch time channel"]
    """Features of each step."""


class Block(nnx.Module):
    """A convolution with stride, and one with a shortcut, each with a norm and SiLU."""

    def __init__(self, in_width: int, width: int, stride: int, *, rngs: nnx.Rngs):
        self.down = conv(in_width, width, stride=stride, rngs=rngs, dtype=jnp.float32)
        self.down_norm = GroupNorm(width, width // GROUP, eps=_EPS, dtype=jnp.float32)
        self.residual = conv(width, width, rngs=rngs, dtype=jnp.float32)
        self.residual_norm = GroupNorm(width, width // GROUP, eps=_EPS, dtype=jnp.float32)

    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch rows columns out"]:
        """Feature map of the stage."""
        x = self.down_norm(self.down(x), silu=True)
        return x + self.residual_norm(self.residual(x), silu=True)


class VideoJudge(nnx.Module):
    """Equations (1) to (5) for single frames."""

    def __init__(self, widths: Sequence[int], size: int, classes: int, places: int, *, rngs: nnx.Rngs):
        """`widths` are those of the stages, of which all but the last halve the frame; `size` is its side, pixels."""
        self.size, self.classes = size, classes
        inner = (3, *widths[:-1])
        self.stages = nnx.List(
            [
                Block(in_width, width, 1 if number == len(widths) - 1 else 2, rngs=rngs)
                for number, (in_width, width) in enumerate(zip(inner, widths, strict=True))
            ]
        )
        self.head = linear(widths[-1], 4 * classes, rngs=rngs, dtype=jnp.float32)
        self.bias = nnx.Param(zeros(rngs.params(), (classes,)))
        self.mix = linear(widths[-1] + 3 * _COARSE**2, widths[-1], rngs=rngs, dtype=jnp.float32)
        self.place = linear(widths[-1], places, rngs=rngs, dtype=jnp.float32)

    def __call__(self, frames: Float[Array, "batch height width 3"]) -> Seen:
        """Judges frames in [-1, 1] of any size."""
        frames = resized(frames, self.size)
        x = frames
        for stage in self.stages:
            x = stage(x)
        cells = rearrange(self.head(x), "b h w (k name) -> k b (h w) name", k=4)
        score, offset, envelope = cells[0], cells[1:3], cells[3]
        log_attention = jax.nn.log_softmax(score, axis=1)
        attention = jnp.exp(log_attention)
        found = jnp.asarray(_centres(*x.shape[1:3]))[:, None, :, None] + offset
        features = jnp.mean(x, (1, 2))
        coarse = rearrange(resized(frames, _COARSE), "b h w c -> b (h w c)")
        return Seen(
            in_view=jax.nn.logsumexp(score, axis=1) - np.float32(np.log(score.shape[1])) + self.bias[...][None],
            attention=log_attention,
            position=rearrange(jnp.sum(attention[None] * found, axis=2), "k b name -> b name k"),
            envelope=jnp.sum(attention * envelope, axis=1),
            place=self.place(jax.nn.silu(self.mix(jnp.concatenate([features, coarse], axis=-1)))),
            features=features,
        )


class AudioJudge(nnx.Module):
    """Equations (6) and (7) for log-mels of any length."""

    def __init__(self, widths: Sequence[int], features: int, bands: int, classes: int, *, rngs: nnx.Rngs):
        """`widths` are those of the four stages, `features` that of each step; `bands` are divisible by 16."""
        self.classes = classes
        inner = (1, *widths[:-1])
        self.stages = nnx.List(
            [
                Block(in_width, width, 2 if number < 2 else 1, rngs=rngs)
                for number, (in_width, width) in enumerate(zip(inner, widths, strict=True))
            ]
        )
        self.mix = linear(widths[-1] * bands // 16, features, rngs=rngs, dtype=jnp.float32)
        self.head = linear(features, 2 * classes, rngs=rngs, dtype=jnp.float32)

    def __call__(self, mel: Float[Array, "batch frame band"]) -> Heard:
        """Judges natural-log mels (media/mel.py)."""
        x = log_mel_input(mel)
        for number, stage in enumerate(self.stages):
            if number >= 2:
                # Time keeps its resolution from here on.
                x = jnp.mean(rearrange(x, "b t (f p) c -> b t f p c", p=2), axis=3)
            x = stage(x)
        features = jax.nn.silu(self.mix(rearrange(x, "b t f c -> b t (f c)")))
        scores, envelope = jnp.split(self.head(features), 2, axis=-1)
        return Heard(scores=scores, envelope=envelope, features=features)


def log_mel_input(mel: Float[Array, "batch frame band"]) -> Float[Array, "batch frame band 1"]:
    """Natural-log mels as the input of a convolution, of about unit variance."""
    return ((mel - _MIDDLE) / _RANGE)[..., None]


def heard_logits(scores: Float[Array, "*batch time class"]) -> Float[Array, "*batch class"]:
    """Equation (6): logits that each class is heard in a clip."""
    return jnp.sum(jax.nn.softmax(scores, axis=-2) * scores, axis=-2)


def clip_features(features: Float32[np.ndarray, "time channel"]) -> Float32[np.ndarray, "double_channel"]:
    """Equation (8); without a difference for a clip of a single step."""
    change = np.abs(np.diff(features, axis=0)) if len(features) > 1 else np.zeros_like(features)
    return np.concatenate([features.mean(axis=0), change.mean(axis=0)]).astype(np.float32)


def resized(frames: Float[Array, "batch height width channel"], size: int) -> Float[Array, "batch size size channel"]:
    """Frames of `size` x `size` pixels, linear, without aliasing."""
    if frames.shape[1:3] == (size, size):
        return frames
    shape = (frames.shape[0], size, size, frames.shape[3])
    return jax.image.resize(frames, shape, jax.image.ResizeMethod.LINEAR, antialias=True)


def cell_of(position: Float[Array, "*shape 2"], side: int) -> Int[Array, "*shape"]:
    """Number of the cell, of `side` x `side`, that a position (3) lies in."""
    across, down = ((1 + sign * position[..., axis]) / 2 * side for axis, sign in ((0, 1), (1, -1)))
    column, row = (jnp.clip(along.astype(jnp.int32), 0, side - 1) for along in (across, down))
    return row * side + column


def _centres(height: int, width: int) -> Float32[np.ndarray, "2 cell"]:
    """Positions of the centres of cells, right and up."""
    right, up = (2 * np.arange(width) + 1) / width - 1, 1 - (2 * np.arange(height) + 1) / height
    return np.stack([np.tile(right, height), np.repeat(up, width)]).astype(np.float32)
