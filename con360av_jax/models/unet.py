"""The U-Net of both modalities: AudioLDM's and Stable Diffusion 1.5's with AnimateDiff motion modules.

Features are "batch frame height width channel" throughout. Audio is one frame whose height is time and whose width is
mel, so both modalities share all code. Attribute names are those of diffusers' UNet2DConditionModel and
UNetMotionModel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from con360av_jax.config.settings import AudioUNetConfig, Remat, UNetLevel, VideoUNetConfig
from con360av_jax.models.attention import SpatialTransformer
from con360av_jax.models.layers import GroupNorm, TimestepEmbedding, conv, linear
from con360av_jax.models.motion import MotionModule
from con360av_jax.models.remat import run
from con360av_jax.models.resnet import Downsample, ResnetBlock, Upsample

# Called with a site's name ("down_0" .. "down_3", "up_0" .. "up_3") and the block's output; returns its replacement.
AtSite = Callable[[str, Array], Array]


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Builds the parts of one U-Net's blocks from their common settings."""

    config: AudioUNetConfig | VideoUNetConfig
    rngs: nnx.Rngs
    dtype: DTypeLike
    motion: bool
    """Whether a video U-Net has motion modules."""

    @property
    def time_width(self) -> int:
        """Width of the time MLP's output."""
        return 4 * self.config.levels[0].width

    @property
    def embedding_width(self) -> int:
        """Width of the residual blocks' embedding: time, for audio followed by the caption's class embedding."""
        return self.time_width * (2 if isinstance(self.config, AudioUNetConfig) else 1)

    def resnet(self, in_width: int, out_width: int) -> ResnetBlock:
        """A residual block."""
        return ResnetBlock(
            in_width,
            out_width,
            embedding_width=self.embedding_width,
            groups=self.config.norm_groups,
            eps=self.config.norm_eps,
            rngs=self.rngs,
            dtype=self.dtype,
        )

    def attention(self, level: UNetLevel) -> SpatialTransformer:
        """A spatial transformer; only video's reads a context."""
        return SpatialTransformer(
            level.width,
            heads=level.heads,
            groups=self.config.norm_groups,
            context_width=self.config.context_width if isinstance(self.config, VideoUNetConfig) else None,
            rngs=self.rngs,
            dtype=self.dtype,
        )

    def motions(self, width: int, count: int) -> list[MotionModule]:
        """`count` motion modules for video, none for audio."""
        if not (self.motion and isinstance(self.config, VideoUNetConfig)):
            return []
        return [
            MotionModule(
                width,
                heads=self.config.motion_heads,
                groups=self.config.motion_norm_groups,
                max_frames=self.config.motion_max_frames,
                rngs=self.rngs,
                dtype=self.dtype,
            )
            for _ in range(count)
        ]


class Block(nnx.Module):
    """Residual blocks, each followed by a spatial transformer and a motion module where the level has them."""

    def __init__(self, level: UNetLevel, in_widths: Sequence[int], build: Builder, *, remat: Remat):
        self.remat: Remat = remat
        self.resnets = nnx.List([build.resnet(width, level.width) for width in in_widths])
        self.attentions = nnx.List([build.attention(level) for _ in in_widths] if level.attention else [])
        self.motion_modules = nnx.List(build.motions(level.width, len(in_widths)))

    def layer(self, number: int, x: Array, embedding: Array, context: Array | None) -> Array:
        """Residual block `number` with its transformer and motion module."""
        x = run(self.resnets[number], x, embedding, remat=self.remat)
        if self.attentions:
            x = run(self.attentions[number], x, context, remat=self.remat)
        if self.motion_modules:
            x = run(self.motion_modules[number], x, remat=self.remat)
        return x


class DownBlock(Block):
    """Layers of one resolution; all levels but the deepest end by halving height and width."""

    def __init__(self, level: UNetLevel, in_width: int, build: Builder, *, last: bool, remat: Remat):
        in_widths = [in_width] + [level.width] * (level.layers - 1)
        super().__init__(level, in_widths, build, remat=remat)
        downsamplers = [] if last else [Downsample(level.width, rngs=build.rngs, dtype=build.dtype)]
        self.downsamplers = nnx.List(downsamplers)

    def __call__(self, x: Array, embedding: Array, context: Array | None) -> list[Array]:
        """Every layer's output in order: the skip features, of which the last is also the block's output."""
        skips = []
        for number in range(len(self.resnets)):
            x = self.layer(number, x, embedding, context)
            skips.append(x)
        for downsample in self.downsamplers:
            skips.append(downsample(x))
        return skips


class MidBlock(nnx.Module):
    """Residual, spatial transformer, motion module (if any), residual."""

    def __init__(self, level: UNetLevel, build: Builder, *, remat: Remat):
        self.remat: Remat = remat
        with_motion = isinstance(build.config, VideoUNetConfig) and build.config.motion_mid_block
        self.resnets = nnx.List([build.resnet(level.width, level.width) for _ in range(2)])
        self.attentions = nnx.List([build.attention(level)])
        self.motion_modules = nnx.List(build.motions(level.width, 1 if with_motion else 0))

    def __call__(self, x: Array, embedding: Array, context: Array | None) -> Array:
        """Same shape."""
        x = run(self.resnets[0], x, embedding, remat=self.remat)
        x = run(self.attentions[0], x, context, remat=self.remat)
        for motion in self.motion_modules:
            x = run(motion, x, remat=self.remat)
        return run(self.resnets[1], x, embedding, remat=self.remat)


class UpBlock(Block):
    """Layers of one resolution, each reading a skip feature as well; all levels but the last end by doubling."""

    def __init__(
        self, level: UNetLevel, in_width: int, skip_widths: Sequence[int], build: Builder, *, last: bool, remat: Remat
    ):
        widths = [in_width] + [level.width] * level.layers
        in_widths = [width + skip for width, skip in zip(widths, skip_widths, strict=True)]
        super().__init__(level, in_widths, build, remat=remat)
        self.upsamplers = nnx.List([] if last else [Upsample(level.width, rngs=build.rngs, dtype=build.dtype)])

    def __call__(self, x: Array, skips: list[Array], embedding: Array, context: Array | None) -> Array:
        """Takes one skip feature per layer off the end of `skips`."""
        for number in range(len(self.resnets)):
            x = self.layer(number, jnp.concatenate([x, skips.pop()], axis=-1), embedding, context)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class UNet(nnx.Module):
    """Predicts the noise in a latent from its timestep and caption.

    A video U-Net without `motion` modules treats each frame alone, like the image model that AnimateDiff starts from.
    """

    def __init__(
        self,
        config: AudioUNetConfig | VideoUNetConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        remat: Remat = "none",
        motion: bool = True,
    ):
        build = Builder(config=config, rngs=rngs, dtype=dtype, motion=motion)
        levels = config.levels
        first, last = levels[0].width, len(levels) - 1
        self.conv_in = conv(config.latent_channels, first, rngs=rngs, dtype=dtype)
        self.time_embedding = TimestepEmbedding(first, build.time_width, rngs=rngs, dtype=dtype)
        self.class_embedding = nnx.data(
            linear(config.class_width, build.time_width, rngs=rngs, dtype=dtype)
            if isinstance(config, AudioUNetConfig)
            else None
        )
        down_blocks, skip_widths, width = [], [first], first
        for number, level in enumerate(levels):
            down_blocks.append(DownBlock(level, width, build, last=number == last, remat=remat))
            width = level.width
            skip_widths += [width] * (level.layers + (number != last))
        self.down_blocks = nnx.List(down_blocks)
        self.mid_block = MidBlock(levels[-1], build, remat=remat)
        up_blocks = []
        for number, level in enumerate(reversed(levels)):
            skips = [skip_widths.pop() for _ in range(level.layers + 1)]
            up_blocks.append(UpBlock(level, width, skips, build, last=number == last, remat=remat))
            width = level.width
        self.up_blocks = nnx.List(up_blocks)
        self.conv_norm_out = GroupNorm(first, config.norm_groups, eps=config.norm_eps, dtype=dtype)
        self.conv_out = conv(first, config.latent_channels, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        x: Float[Array, "batch frame height width channel"],
        timesteps: Int[Array, "batch"],
        text: Float[Array, "batch text_channel"] | Float[Array, "batch token text_channel"],
        at_site: AtSite | None = None,
    ) -> Float[Array, "batch frame height width channel"]:
        """Noise prediction; `text` is the class embedding (audio) or the context (video).

        `at_site` may replace each block's output, and with it the last skip feature of a down block.
        """
        embedding, context = self.time_embedding(timesteps), None
        if self.class_embedding is None:
            context = text.astype(embedding.dtype)
        else:
            embedding = jnp.concatenate([embedding, self.class_embedding(text)], axis=-1)
        x = self.conv_in(x)
        skips = [x]
        for number, block in enumerate(self.down_blocks):
            outputs = block(x, embedding, context)
            x = outputs[-1] if at_site is None else at_site(f"down_{number}", outputs[-1])
            skips += [*outputs[:-1], x]
        x = self.mid_block(x, embedding, context)
        for number, block in enumerate(self.up_blocks):
            x = block(x, skips, embedding, context)
            x = x if at_site is None else at_site(f"up_{number}", x)
        return self.conv_out(self.conv_norm_out(x, silu=True))
