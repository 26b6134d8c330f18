"""The frozen text encoders: CLIP's transformer for the picture, CLAP's RoBERTa tower for the sound.

(1) attention    softmax(q k^T / sqrt(head width) + mask) v, softmax in float32
(2) quick_gelu   x sigmoid(1.702 x);  gelu: x Phi(x), exact
(3) positions    CLIP: 0, 1, 2, ...;  RoBERTa: pad + 1, pad + 2, ... over tokens that are not padding, pad elsewhere

Structure, numerics and attribute names are those of transformers' CLIPTextModel and ClapTextModelWithProjection.
"""

from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from con360av_jax.config import TextConfig
from con360av_jax.models.layers import LayerNorm, linear, uniform

FLOAT32 = jnp.dtype(jnp.float32)
Linear = partial(linear, dtype=FLOAT32)


Hidden = Float[Array, "batch token channel"]
Tokens = Int[Array, "batch token"]
TokenMask = Bool[Array, "batch token"]
AttentionMask = Bool[Array, "batch 1 query key"]


def embedding(rows: int, width: int, bound: float, *, rngs: nnx.Rngs) -> nnx.Embed:
    """A table that starts uniform within +-bound: tokens count for more than positions, so captions differ."""
    return nnx.Embed(
        rows,
        width,
        embedding_init=lambda key, shape, dtype: bound * rows**0.5 * uniform(key, shape, dtype),
        dtype=FLOAT32,
        rngs=rngs,
    )


def _layer_norm(config: TextConfig) -> LayerNorm:
    return LayerNorm(config.width, eps=config.norm_eps, dtype=FLOAT32)


def _attend(query: Hidden, key: Hidden, value: Hidden, heads: int, mask: AttentionMask) -> Hidden:
    query, key, value = (
        rearrange(x, "batch token (head channel) -> batch token head channel", head=heads) for x in (query, key, value)
    )
    attended = jax.nn.dot_product_attention(query, key, value, mask=mask, scale=query.shape[-1] ** -0.5)
    return rearrange(attended, "batch token head channel -> batch token (head channel)")


def _activate(x: Hidden, config: TextConfig) -> Hidden:
    if config.activation == "quick_gelu":
        return x * jax.nn.sigmoid(1.702 * x)
    return jax.nn.gelu(x, approximate=False)


class ClipAttention(nnx.Module):
    """Multi-head self-attention with four projections."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.heads = config.heads
        linear = partial(Linear, config.width, config.width, rngs=rngs)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = linear(), linear(), linear(), linear()

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        return self.out_proj(_attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, mask))


class ClipMLP(nnx.Module):
    """Two linear layers around the activation."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.fc1 = Linear(config.width, config.mlp_width, rngs=rngs)
        self.fc2 = Linear(config.mlp_width, config.width, rngs=rngs)

    def __call__(self, x: Hidden) -> Hidden:
        return self.fc2(_activate(self.fc1(x), self.config))


class ClipLayer(nnx.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.layer_norm1 = _layer_norm(config)
        self.self_attn = ClipAttention(config, rngs=rngs)
        self.layer_norm2 = _layer_norm(config)
        self.mlp = ClipMLP(config, rngs=rngs)

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class ClipEmbeddings(nnx.Module):
    """Token plus learned position."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.token_embedding = embedding(config.vocabulary, config.width, 1.0, rngs=rngs)
        self.position_embedding = embedding(config.max_positions, config.width, 0.3, rngs=rngs)

    def __call__(self, tokens: Tokens) -> Hidden:
        return self.token_embedding(tokens) + self.position_embedding(jnp.arange(tokens.shape[1]))[None]


class ClipEncoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.layers = nnx.List([ClipLayer(config, rngs=rngs) for _ in range(config.layers)])

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class ClipTextModel(nnx.Module):
    """Tokens to hidden states after the final layer norm: what the video U-Net's cross-attention reads."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.embeddings = ClipEmbeddings(config, rngs=rngs)
        self.encoder = ClipEncoder(config, rngs=rngs)
        self.final_layer_norm = _layer_norm(config)

    def __call__(self, tokens: Tokens, mask: TokenMask | None = None) -> Hidden:
        """Every token sees itself and those before; Stable Diffusion gives no `mask`, so that padding is read too."""
        length = tokens.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        if mask is not None:
            causal = jnp.logical_and(*jnp.broadcast_arrays(causal, mask[:, None, None, :]))
        return self.final_layer_norm(self.encoder(self.embeddings(tokens), causal))


class ClapEmbeddings(nnx.Module):
    """Token plus position plus the one token type, normalised."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.pad_token = config.pad_token
        self.word_embeddings = embedding(config.vocabulary, config.width, 1.0, rngs=rngs)
        self.position_embeddings = embedding(config.max_positions, config.width, 0.3, rngs=rngs)
        self.token_type_embeddings = embedding(1, config.width, 0.3, rngs=rngs)
        self.LayerNorm = _layer_norm(config)

    def __call__(self, tokens: Tokens) -> Hidden:
        present = (tokens != self.pad_token).astype(jnp.int32)
        positions = jnp.cumsum(present, axis=1) * present + self.pad_token
        token_type = self.token_type_embeddings(jnp.zeros_like(tokens))
        return self.LayerNorm(self.word_embeddings(tokens) + token_type + self.position_embeddings(positions))


class ClapSelfAttention(nnx.Module):
    """Query, key and value projections and the attention itself."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.heads = config.heads
        linear = partial(Linear, config.width, config.width, rngs=rngs)
        self.query, self.key, self.value = linear(), linear(), linear()

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        return _attend(self.query(x), self.key(x), self.value(x), self.heads, mask)


class ClapOutput(nnx.Module):
    """A linear layer whose sum with the residual is normalised."""

    def __init__(self, width: int, config: TextConfig, *, rngs: nnx.Rngs):
        self.dense = Linear(width, config.width, rngs=rngs)
        self.LayerNorm = _layer_norm(config)

    def __call__(self, x: Hidden, residual: Hidden) -> Hidden:
        return self.LayerNorm(self.dense(x) + residual)


class ClapAttention(nnx.Module):
    """Attention with its post-norm output layer."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.self = ClapSelfAttention(config, rngs=rngs)
        self.output = ClapOutput(config.width, config, rngs=rngs)

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        return self.output(self.self(x, mask), x)


class Dense(nnx.Module):
    """One linear layer, wrapped as the original wraps it."""

    def __init__(self, in_width: int, out_width: int, *, rngs: nnx.Rngs):
        self.dense = Linear(in_width, out_width, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch channel"]) -> Float[Array, "*batch out"]:
        return self.dense(x)


class ClapLayer(nnx.Module):
    """Post-norm transformer layer."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.attention = ClapAttention(config, rngs=rngs)
        self.intermediate = Dense(config.width, config.mlp_width, rngs=rngs)
        self.output = ClapOutput(config.mlp_width, config, rngs=rngs)

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        x = self.attention(x, mask)
        return self.output(_activate(self.intermediate(x), self.config), x)


class ClapEncoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.layer = nnx.List([ClapLayer(config, rngs=rngs) for _ in range(config.layers)])

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class Roberta(nnx.Module):
    """Tokens to the pooled state of the first one."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.embeddings = ClapEmbeddings(config, rngs=rngs)
        self.encoder = ClapEncoder(config, rngs=rngs)
        self.pooler = Dense(config.width, config.width, rngs=rngs)

    def __call__(self, tokens: Tokens, mask: TokenMask) -> Float[Array, "batch channel"]:
        hidden = self.encoder(self.embeddings(tokens), mask[:, None, None, :])
        return jnp.tanh(self.pooler(hidden[:, 0]))


class ClapProjection(nnx.Module):
    """Pooled state to the space shared with sound."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.linear1 = Linear(config.width, config.projection, rngs=rngs)
        self.linear2 = Linear(config.projection, config.projection, rngs=rngs)

    def __call__(self, x: Float[Array, "batch channel"]) -> Float[Array, "batch projection"]:
        return self.linear2(jax.nn.relu(self.linear1(x)))


class ClapTextModel(nnx.Module):
    """Tokens to one embedding of unit length per caption: what the audio U-Net takes as its class."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.text_model = Roberta(config, rngs=rngs)
        self.text_projection = ClapProjection(config, rngs=rngs)

    def __call__(self, tokens: Tokens, mask: TokenMask) -> Float[Array, "batch projection"]:
        """`mask` is False on padding; AudioLDM normalises the projection to unit length."""
        projected = self.text_projection(self.text_model(tokens, mask))
        return projected / jnp.maximum(jnp.linalg.norm(projected, axis=-1, keepdims=True), 1e-12)
