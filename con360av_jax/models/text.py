"""The frozen text encoders: CLIP's transformer for video, CLAP's RoBERTa tower for audio.

(1) attention    softmax(q k^T / sqrt(head width) + mask) v, softmax in float32
(2) quick_gelu   x sigmoid(1.702 x);  gelu: x Phi(x), exact
(3) positions    CLIP: 0, 1, 2, ...;  RoBERTa: pad + 1, pad + 2, ... over tokens that are not padding, pad elsewhere

Structure, numerics and attribute names are those of transformers' CLIPTextModel and ClapTextModelWithProjection.
`dtype` is that of activations; norms, softmax and outputs are float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from con360av_jax.config.settings import TextConfig
from con360av_jax.models.attention import attention
from con360av_jax.models.layers import LayerNorm, linear, uniform

FLOAT32 = jnp.dtype(jnp.float32)

Hidden = Float[Array, "batch token channel"]
Tokens = Int[Array, "batch token"]
TokenMask = Bool[Array, "batch token"]
AttentionMask = Bool[Array, "batch 1 query key"]


def embedding(rows: int, width: int, bound: float, *, rngs: nnx.Rngs, dtype: DTypeLike) -> nnx.Embed:
    """Embedding table, initially uniform within +-bound; tokens have a larger bound than positions."""
    return nnx.Embed(
        rows,
        width,
        embedding_init=lambda key, shape, dtype: bound * rows**0.5 * uniform(key, shape, dtype),
        dtype=jnp.dtype(dtype),
        rngs=rngs,
    )


def _layer_norm(config: TextConfig, dtype: DTypeLike) -> LayerNorm:
    return LayerNorm(config.width, eps=config.norm_eps, dtype=dtype)


def _attend(query: Hidden, key: Hidden, value: Hidden, heads: int, mask: AttentionMask) -> Hidden:
    query, key, value = (
        rearrange(x, "batch token (head channel) -> batch token head channel", head=heads) for x in (query, key, value)
    )
    return rearrange(attention(query, key, value, mask), "batch token head channel -> batch token (head channel)")


def _activate(x: Hidden, config: TextConfig) -> Hidden:
    if config.activation == "quick_gelu":
        return x * jax.nn.sigmoid(1.702 * x)
    return jax.nn.gelu(x, approximate=False)


class ClipAttention(nnx.Module):
    """Multi-head self-attention with four projections."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.heads = config.heads
        project = partial(linear, config.width, config.width, rngs=rngs, dtype=dtype)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = project(), project(), project(), project()

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        return self.out_proj(_attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, mask))


class ClipMLP(nnx.Module):
    """Two linear layers around the activation."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.config = config
        self.fc1 = linear(config.width, config.mlp_width, rngs=rngs, dtype=dtype)
        self.fc2 = linear(config.mlp_width, config.width, rngs=rngs, dtype=dtype)

    def __call__(self, x: Hidden) -> Hidden:
        return self.fc2(_activate(self.fc1(x), self.config))


class ClipLayer(nnx.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.layer_norm1 = _layer_norm(config, dtype)
        self.self_attn = ClipAttention(config, rngs=rngs, dtype=dtype)
        self.layer_norm2 = _layer_norm(config, dtype)
        self.mlp = ClipMLP(config, rngs=rngs, dtype=dtype)

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class ClipEmbeddings(nnx.Module):
    """Sum of token and learned position embeddings."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.token_embedding = embedding(config.vocabulary, config.width, 1.0, rngs=rngs, dtype=dtype)
        self.position_embedding = embedding(config.max_positions, config.width, 0.3, rngs=rngs, dtype=dtype)

    def __call__(self, tokens: Tokens) -> Hidden:
        return self.token_embedding(tokens) + self.position_embedding(jnp.arange(tokens.shape[1]))[None]


class ClipEncoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.layers = nnx.List([ClipLayer(config, rngs=rngs, dtype=dtype) for _ in range(config.layers)])

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class ClipTextModel(nnx.Module):
    """Tokens to hidden states after the final layer norm, the context of the video U-Net's cross-attention."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.embeddings = ClipEmbeddings(config, rngs=rngs, dtype=dtype)
        self.encoder = ClipEncoder(config, rngs=rngs, dtype=dtype)
        self.final_layer_norm = _layer_norm(config, FLOAT32)

    def __call__(self, tokens: Tokens, mask: TokenMask | None = None) -> Hidden:
        """Causal attention; Stable Diffusion passes no `mask`, so padding is read too."""
        length = tokens.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        if mask is not None:
            causal = jnp.logical_and(*jnp.broadcast_arrays(causal, mask[:, None, None, :]))
        return self.final_layer_norm(self.encoder(self.embeddings(tokens), causal))


class ClapEmbeddings(nnx.Module):
    """Normalised sum of token, position and the single token type's embeddings."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.pad_token = config.pad_token
        self.word_embeddings = embedding(config.vocabulary, config.width, 1.0, rngs=rngs, dtype=dtype)
        self.position_embeddings = embedding(config.max_positions, config.width, 0.3, rngs=rngs, dtype=dtype)
        self.token_type_embeddings = embedding(1, config.width, 0.3, rngs=rngs, dtype=dtype)
        self.LayerNorm = _layer_norm(config, dtype)

    def __call__(self, tokens: Tokens) -> Hidden:
        present = (tokens != self.pad_token).astype(jnp.int32)
        positions = jnp.cumsum(present, axis=1) * present + self.pad_token
        token_type = self.token_type_embeddings(jnp.zeros_like(tokens))
        return self.LayerNorm(self.word_embeddings(tokens) + token_type + self.position_embeddings(positions))


class ClapSelfAttention(nnx.Module):
    """Query, key and value projections and the attention itself."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.heads = config.heads
        project = partial(linear, config.width, config.width, rngs=rngs, dtype=dtype)
        self.query, self.key, self.value = project(), project(), project()

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        return _attend(self.query(x), self.key(x), self.value(x), self.heads, mask)


class ClapOutput(nnx.Module):
    """A linear layer whose sum with the residual is normalised."""

    def __init__(self, width: int, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.dense = linear(width, config.width, rngs=rngs, dtype=dtype)
        self.LayerNorm = _layer_norm(config, dtype)

    def __call__(self, x: Hidden, residual: Hidden) -> Hidden:
        return self.LayerNorm(self.dense(x) + residual)


class ClapAttention(nnx.Module):
    """Attention with its post-norm output layer."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.self = ClapSelfAttention(config, rngs=rngs, dtype=dtype)
        self.output = ClapOutput(config.width, config, rngs=rngs, dtype=dtype)

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        return self.output(self.self(x, mask), x)


class Dense(nnx.Module):
    """One linear layer, nested as in the original."""

    def __init__(self, in_width: int, out_width: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.dense = linear(in_width, out_width, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "*batch channel"]) -> Float[Array, "*batch out"]:
        return self.dense(x)


class ClapLayer(nnx.Module):
    """Post-norm transformer layer."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.config = config
        self.attention = ClapAttention(config, rngs=rngs, dtype=dtype)
        self.intermediate = Dense(config.width, config.mlp_width, rngs=rngs, dtype=dtype)
        self.output = ClapOutput(config.mlp_width, config, rngs=rngs, dtype=dtype)

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        x = self.attention(x, mask)
        return self.output(_activate(self.intermediate(x), self.config), x)


class ClapEncoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.layer = nnx.List([ClapLayer(config, rngs=rngs, dtype=dtype) for _ in range(config.layers)])

    def __call__(self, x: Hidden, mask: AttentionMask) -> Hidden:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class Roberta(nnx.Module):
    """Tokens to the pooled state of the first one."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.embeddings = ClapEmbeddings(config, rngs=rngs, dtype=dtype)
        self.encoder = ClapEncoder(config, rngs=rngs, dtype=dtype)
        self.pooler = Dense(config.width, config.width, rngs=rngs, dtype=dtype)

    def __call__(self, tokens: Tokens, mask: TokenMask) -> Float[Array, "batch channel"]:
        hidden = self.encoder(self.embeddings(tokens), mask[:, None, None, :])
        return jnp.tanh(self.pooler(hidden[:, 0]))


class ClapProjection(nnx.Module):
    """Projects the pooled state to the space shared with audio."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.linear1 = linear(config.width, config.projection, rngs=rngs, dtype=dtype)
        self.linear2 = linear(config.projection, config.projection, rngs=rngs, dtype=FLOAT32)

    def __call__(self, x: Float[Array, "batch channel"]) -> Float[Array, "batch projection"]:
        return self.linear2(jax.nn.relu(self.linear1(x)))


class ClapTextModel(nnx.Module):
    """Tokens to one embedding of unit length per caption, the class embedding of the audio U-Net."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.text_model = Roberta(config, rngs=rngs, dtype=dtype)
        self.text_projection = ClapProjection(config, rngs=rngs, dtype=dtype)

    def __call__(self, tokens: Tokens, mask: TokenMask) -> Float[Array, "batch projection"]:
        """`mask` is False on padding; AudioLDM normalises the projection to unit length."""
        projected = self.text_projection(self.text_model(tokens, mask))
        return projected / jnp.maximum(jnp.linalg.norm(projected, axis=-1, keepdims=True), 1e-12)
