"""Multi-head attention and the transformer blocks built on it; one function picks the implementation.

    attention    y = softmax(q k^T / sqrt(width) + mask) v,  mask 0 or -infinity                                   (1)
    block        x += attn1(norm1(x) + p);  x += attn2(norm2(x) + p, context);  x += ff(norm3(x))                  (2)

p is a positional encoding (motion modules) or nothing; without a context attn2 reads x itself, as AudioLDM's does.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from con360av_jax.models.layers import FeedForward, GroupNorm, LayerNorm, linear

# With so many scores, more than caches hold, XLA's plain attention on CPU is several times slower than the same over
# groups of heads: 1024 tokens of few heads, or a connector's 256 tokens of 160 heads.
CHUNKED_SCORES = 2**23
HEADS_PER_CHUNK = 4
# cuDNN's backward pass on A100 knows head widths up to this; short sequences gain nothing from it.
FUSED_HEAD_WIDTH = 128
FUSED_TOKENS = 256


def attention(
    query: Float[Array, "batch query head width"],
    key: Float[Array, "batch token head width"],
    value: Float[Array, "batch token head width"],
    mask: Bool[Array, "#batch 1 #query token"] | None = None,
) -> Float[Array, "batch query head width"]:
    """Equation (1), softmax in f32, in the way that is fastest for this platform, dtype and number of tokens.

    `mask` is True where a query sees a token; every query must see one. The text encoders alone have one.
    """
    if mask is not None:
        return plain_attention(query, key, value, mask)
    (batch, queries, heads, width), tokens = query.shape, key.shape[1]
    many = batch * heads * queries * tokens >= CHUNKED_SCORES
    if jax.default_backend() == "cpu" and many and heads % HEADS_PER_CHUNK == 0 and heads > HEADS_PER_CHUNK:
        return _by_head_groups(query, key, value)
    half_precision = query.dtype in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
    fits = width % 8 == 0 and width <= FUSED_HEAD_WIDTH and min(queries, tokens) >= FUSED_TOKENS
    if jax.default_backend() == "gpu" and half_precision and fits:
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    return plain_attention(query, key, value)


def plain_attention(
    query: Float[Array, "batch query head width"],
    key: Float[Array, "batch token head width"],
    value: Float[Array, "batch token head width"],
    mask: Bool[Array, "#batch 1 #query token"] | None = None,
) -> Float[Array, "batch query head width"]:
    """Equation (1) as two einsums."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query * _scale(query), key, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def _by_head_groups(query: Array, key: Array, value: Array) -> Array:
    query, key, value = (
        rearrange(x, "b n (group head) d -> group b n head d", head=HEADS_PER_CHUNK) for x in (query, key, value)
    )
    output = jax.lax.map(lambda group: plain_attention(*group), (query, key, value))
    return rearrange(output, "group b n head d -> b n (group head) d")


def _scale(query: Array) -> Array:
    return jnp.asarray(query.shape[-1] ** -0.5, query.dtype)


class Attention(nnx.Module):
    """Projections without bias, attention within each group of tokens (or to a context), projection out with bias."""

    def __init__(self, width: int, *, heads: int, rngs: nnx.Rngs, dtype: DTypeLike, context_width: int | None = None):
        self.heads = heads
        source = width if context_width is None else context_width
        self.to_q = linear(width, width, rngs=rngs, dtype=dtype, bias=False)
        self.to_k = linear(source, width, rngs=rngs, dtype=dtype, bias=False)
        self.to_v = linear(source, width, rngs=rngs, dtype=dtype, bias=False)
        self.to_out = linear(width, width, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        x: Float[Array, "batch group token channel"],
        context: Float[Array, "batch context_token context_channel"] | None = None,
    ) -> Float[Array, "batch group token channel"]:
        """Tokens of one group see each other, or, with a context, all of the context and nothing else."""
        # A token's view of the context does not depend on its group: groups are more tokens, the context is not copied.
        fold = "b g n c -> (b g) n c" if context is None else "b g n c -> b (g n) c"
        query = rearrange(x, fold)
        source = query if context is None else context
        query, key, value = (
            rearrange(projected, "b n (head d) -> b n head d", head=self.heads)
            for projected in (self.to_q(query), self.to_k(source), self.to_v(source))
        )
        output = rearrange(attention(query, key, value), "b n head d -> b n (head d)")
        unfold = "(b g) n c -> b g n c" if context is None else "b (g n) c -> b g n c"
        return rearrange(self.to_out(output), unfold, b=x.shape[0], g=x.shape[1])


class TransformerBlock(nnx.Module):
    """Equation (2)."""

    def __init__(self, width: int, *, heads: int, rngs: nnx.Rngs, dtype: DTypeLike, context_width: int | None = None):
        self.norm1 = LayerNorm(width, dtype=dtype)
        self.attn1 = Attention(width, heads=heads, rngs=rngs, dtype=dtype)
        self.norm2 = LayerNorm(width, dtype=dtype)
        self.attn2 = Attention(width, heads=heads, context_width=context_width, rngs=rngs, dtype=dtype)
        self.norm3 = LayerNorm(width, dtype=dtype)
        self.ff = FeedForward(width, width, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        x: Float[Array, "batch group token channel"],
        context: Float[Array, "batch context_token context_channel"] | None = None,
        positions: Float[Array, "1 1 token channel"] | None = None,
    ) -> Float[Array, "batch group token channel"]:
        """`positions` is added to both attentions' inputs."""
        x = x + self.attn1(_add(self.norm1(x), positions))
        x = x + self.attn2(_add(self.norm2(x), positions), context)
        return x + self.ff(self.norm3(x))


def _add(x: Array, positions: Array | None) -> Array:
    return x if positions is None else x + positions


class SpatialTransformer(nnx.Module):
    """diffusers' Transformer2DModel: each frame's pixels attend to each other and to the text."""

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        groups: int,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        context_width: int | None = None,
    ):
        # 1e-6 is fixed in the reference, unlike the residual blocks' eps.
        self.norm = GroupNorm(width, groups, eps=1e-6, dtype=dtype)
        self.proj_in = linear(width, width, rngs=rngs, dtype=dtype)
        block = TransformerBlock(width, heads=heads, context_width=context_width, rngs=rngs, dtype=dtype)
        self.transformer_blocks = nnx.List([block])
        self.proj_out = linear(width, width, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        x: Float[Array, "batch frame height width channel"],
        context: Float[Array, "batch token context_channel"] | None,
    ) -> Float[Array, "batch frame height width channel"]:
        """Adds what attention finds to `x`."""
        y = rearrange(self.proj_in(self.norm(x)), "b f h w c -> b f (h w) c")
        for block in self.transformer_blocks:
            y = block(y, context)
        return x + rearrange(self.proj_out(y), "b f (h w) c -> b f h w c", h=x.shape[2])
