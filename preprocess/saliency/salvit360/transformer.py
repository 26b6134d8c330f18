"""SalViT360's transformer: attention between the frames of each tangent image, then between the tangents of each frame.

(1) x = x + P position(tangent) + p_frame
(2) x = x + A_time(norm(x)),   x = x + A_sphere(norm(x)),   x = x + W_2 gelu(W_1 norm(x))       six times
(3) A(x) = softmax(q k^T / sqrt(64)) v, projected;   (q, k, v) = x W_qkv without bias, in 8 heads

Attribute names are those of the published weights.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from preprocess.saliency.salvit360.geometry import POSITION_CELLS, POSITION_CHANNELS

WIDTH = 512
HEADS = 8
DEPTH = 6
# Frames per window, the length of the temporal embedding.
FRAMES = 8
# Active only in training.
DROPOUT = 0.2


class Attention(nn.Module):
    """Attention by equation (3) over the second-to-last axis."""

    def __init__(self):
        super().__init__()
        self.QKV = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Float[Tensor, "... token width"]) -> Float[Tensor, "... token width"]:
        q, k, v = rearrange(
            self.QKV(x), "... token (qkv head width) -> qkv ... head token width", qkv=3, head=HEADS
        ).unbind()
        x = scaled_dot_product_attention(q, k, v, scale=(WIDTH // HEADS) ** -0.5)
        return self.proj(rearrange(x, "... head token width -> ... token (head width)"))


class FeedForward(nn.Module):
    """Feed-forward part of equation (2), after its norm."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(approximate="none"), nn.Dropout(DROPOUT), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        return self.layers(x)


class Layer(nn.Module):
    """One layer, equation (2)."""

    def __init__(self):
        super().__init__()
        self.temp_norm_layer = nn.LayerNorm(WIDTH, eps=1e-5)
        self.temp_attn = Attention()
        self.spatial_norm_layer = nn.LayerNorm(WIDTH, eps=1e-5)
        self.spatial_attn = Attention()
        self.FFN = nn.Sequential(nn.LayerNorm(WIDTH, eps=1e-5), FeedForward())

    def forward(self, x: Float[Tensor, "batch frame tangent width"]) -> Float[Tensor, "batch frame tangent width"]:
        x = x + self.temp_attn(self.temp_norm_layer(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.spatial_attn(self.spatial_norm_layer(x))
        return x + self.FFN(x)


class Transformer(nn.Module):
    """The transformer, equations (1) and (2), for windows of FRAMES frames."""

    def __init__(self):
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.sph_posemb = nn.Linear(POSITION_CHANNELS * POSITION_CELLS**2, WIDTH)
        self.tmp_posemb = nn.Parameter(torch.randn(1, FRAMES, WIDTH))

    def forward(
        self, tokens: Float[Tensor, "batch frame tangent width"], position: Float[Tensor, "tangent feature"]
    ) -> Float[Tensor, "batch frame tangent width"]:
        x = tokens + self.sph_posemb(position) + rearrange(self.tmp_posemb, "one frame width -> one frame 1 width")
        for layer in self.layer:
            x = layer(x)
        return self.norm(x)
