"""I3D: scores of the 400 actions of Kinetics for a short clip, before the softmax.

Inception-v1 with filters that extend over time; three of its five spatial halvings also halve time. Attribute names are
those of pytorch-i3d's weights. A Fréchet distance by I3D is FVD only with the weights that FVD was published with.

Source: Carreira & Zisserman, CVPR 2017; names, order and padding as in pytorch-i3d (Apache-2.0).
"""

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import max_pool3d, pad

from con360av_jax.errors import MediaError

CLASSES = 400
FEWEST_FRAMES = 9
"""Fewer frames leave one time step, but the last average is over two."""
SIDE = 224
"""Height and width of a frame, pixels."""
# Channels of an Inception block's branches: 1x1; 1x1 then 3x3; 1x1 then 3x3; 1x1 after a pool.
WIDTHS = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}

Clip = Float[Tensor, "clip channel time row column"]
Sizes = tuple[int, int, int]


def pad_as_tensorflow(x: Clip, kernel: Sizes, stride: Sizes) -> Clip:
    """Pads x with zeros so that ceil(size / stride) steps fit on each axis; an odd zero comes last.

    Zeros also serve before a maximum, because the padded activations of this network are never negative.
    """
    around: list[int] = []
    for size, reach, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        missing = max(0, (-(-size // step) - 1) * step + reach - size)
        around += [missing // 2, missing - missing // 2]
    return pad(x, around)


class SamePool(nn.Module):
    """Max pooling with TensorFlow's padding."""

    def __init__(self, kernel: Sizes, stride: Sizes):
        super().__init__()
        self.sizes = (kernel, stride)

    def forward(self, x: Clip) -> Clip:
        return max_pool3d(pad_as_tensorflow(x, *self.sizes), *self.sizes)


class Unit3D(nn.Module):
    """Convolution with TensorFlow's padding, batch norm and ReLU; or the convolution alone, with a bias."""

    def __init__(self, in_channels: int, channels: int, size: int = 1, stride: int = 1, plain: bool = False):
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, channels, size, stride, bias=plain)
        self.bn = None if plain else nn.BatchNorm3d(channels, eps=1e-3, momentum=0.01)
        self.sizes = ((size, size, size), (stride, stride, stride))

    def forward(self, x: Clip) -> Clip:
        x = self.conv3d(pad_as_tensorflow(x, *self.sizes))
        return x if self.bn is None else torch.relu_(self.bn(x))


class InceptionModule(nn.Module):
    """Inception block of four concatenated branches."""

    def __init__(self, in_channels: int, widths: tuple[int, ...]):
        super().__init__()
        self.b0 = Unit3D(in_channels, widths[0])
        self.b1a = Unit3D(in_channels, widths[1])
        self.b1b = Unit3D(widths[1], widths[2], 3)
        self.b2a = Unit3D(in_channels, widths[3])
        self.b2b = Unit3D(widths[3], widths[4], 3)
        self.b3a = SamePool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3D(in_channels, widths[5])
        self.channels = widths[0] + widths[2] + widths[4] + widths[5]

    def forward(self, x: Clip) -> Clip:
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x)))
        return torch.cat(branches, dim=1)


class InceptionI3d(nn.Module):
    """The network for RGB clips; its modules are applied in the order in which they are defined."""

    def __init__(self):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(3, 64, 7, 2)
        self.MaxPool3d_2a_3x3 = SamePool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(64, 64)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3)
        self.MaxPool3d_3a_3x3 = SamePool((1, 3, 3), (1, 2, 2))
        channels = 192
        for name, widths in WIDTHS.items():
            if name == "4b":
                self.MaxPool3d_4a_3x3 = SamePool((3, 3, 3), (2, 2, 2))
            if name == "5b":
                self.MaxPool3d_5a_2x2 = SamePool((2, 2, 2), (2, 2, 2))
            block = InceptionModule(channels, widths)
            self.add_module(f"Mixed_{name}", block)
            channels = block.channels
        self.avg_pool = nn.AvgPool3d((2, SIDE // 32, SIDE // 32), stride=1)
        self.logits = Unit3D(channels, CLASSES, plain=True)

    def forward(self, clips: Float[Tensor, "clip 3 frame row column"]) -> Float[Tensor, "clip 400"]:
        """Scores before the softmax, averaged over time.

        Args:
            clips: RGB in [-1, 1], at least FEWEST_FRAMES frames of SIDE x SIDE pixels.

        Raises MediaError for clips of another shape.
        """
        if clips.shape[1] != 3 or clips.shape[2] < FEWEST_FRAMES or tuple(clips.shape[3:]) != (SIDE, SIDE):
            raise MediaError(
                f"I3D is given clips of {tuple(clips.shape[1:])}; wanted (3, {FEWEST_FRAMES} frames or more, {SIDE}, "
                f"{SIDE}): give longer clips"
            )
        x = clips
        for module in self.children():
            x = module(x)
        return reduce(x, "clip score time 1 1 -> clip score", "mean")
