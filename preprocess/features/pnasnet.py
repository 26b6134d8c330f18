"""PNASNet-5-Large as an encoder: five feature maps of an image, each half as large as the one before.

Every cell reads the outputs of the two cells before it, sums five pairs of branches and concatenates the sums.
Attribute names are those of the published weights.

Source: Liu et al., ECCV 2018, figure 1; names, order and padding as in PNASNet.pytorch, whose weights TempSAL holds.
"""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

WIDTH, CELLS, CLASSES = 216, 12, 1001
"""Channels of a branch in the first cells, number of cells after the stem, and classes of the unused classifier."""
FIRST = 96
"""Channels of the first convolution."""
EPSILON = 1e-3
SUMS = 5
"""Pairs of branches per cell; a cell's output has SUMS times the channels of a branch."""
# Pairs of branches: an operation and its input: 0 the cell before the last, 1 the last cell, 2 and up the sums so far.
BRANCHES: tuple[tuple[tuple[str, int], tuple[str, int]], ...] = (
    (("separable 5", 0), ("pool", 0)),
    (("separable 7", 1), ("pool", 1)),
    (("separable 5", 1), ("separable 3", 1)),
    (("separable 3", 4), ("pool", 1)),
    (("separable 3", 0), ("same", 1)),
)

Map: TypeAlias = Float[Tensor, "image channel row column"]
Before: TypeAlias = Literal["as it is", "halved", "same size"]
"""Adaptation of the output of the cell before the last: none (first cell), halved, or a 1x1 convolution."""


def tap_widths(width: int = WIDTH) -> tuple[int, int, int, int, int]:
    """Channels of the taps: 96, 270, 1080, 2160 and 4320 in the published network."""
    return FIRST, SUMS * (width // 4), SUMS * width, SUMS * 2 * width, SUMS * 4 * width


def _convolved(before: int, channels: int, stride: int = 1) -> list[nn.Module]:
    """1x1 convolution and batch norm."""
    return [nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels, eps=EPSILON)]


class Pointwise(nn.Module):
    """ReLU, 1x1 convolution, batch norm."""

    def __init__(self, before: int, channels: int, stride: int = 1):
        super().__init__()
        self.op = nn.Sequential(nn.ReLU(), *_convolved(before, channels, stride))

    def forward(self, x: Map) -> Map:
        return self.op(x)


class Separable(nn.Module):
    """Twice ReLU, depthwise convolution, 1x1 convolution and batch norm; the first depthwise one may have a stride."""

    def __init__(self, before: int, channels: int, size: int, stride: int):
        super().__init__()
        layers: list[nn.Module] = []
        for source, step in ((before, stride), (channels, 1)):
            alone = nn.Conv2d(source, source, size, step, padding=size // 2, groups=source, bias=False)
            layers += [nn.ReLU(), alone, *_convolved(source, channels)]
        self.op = nn.Sequential(*layers)

    def forward(self, x: Map) -> Map:
        return self.op(x)


class Halved(nn.Module):
    """Halved map: half of the channels from even rows and columns, half from odd ones, with zero padding."""

    def __init__(self, before: int, channels: int):
        super().__init__()
        self.conv_1 = nn.Conv2d(before, channels // 2, 1, 2, bias=False)
        self.conv_2 = nn.Conv2d(before, channels // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=EPSILON)

    def forward(self, x: Map) -> Map:
        x = torch.relu(x)
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(pad(x, (0, 1, 0, 1))[:, :, 1:, 1:])], dim=1))


def _branch(what: str, before: int, channels: int, stride: int) -> nn.Module:
    kind, _, size = what.partition(" ")
    if kind == "separable":
        return Separable(before, channels, int(size), stride)
    if kind == "same":
        return nn.Identity() if stride == 1 else Pointwise(before, channels, stride)
    pool = nn.MaxPool2d(3, stride, padding=1)
    return pool if before == channels else nn.Sequential(pool, *_convolved(before, channels))


class Cell(nn.Module):
    """Cell that applies BRANCHES to the outputs of the last two cells."""

    def __init__(self, before_last: int, last: int, channels: int, stride: int, before: Before):
        super().__init__()
        first = {"as it is": nn.Identity, "halved": Halved, "same size": Pointwise}[before]
        self.preprocess0 = first(before_last, channels)
        self.preprocess1 = Pointwise(last, channels)
        self._ops = nn.ModuleList()
        for what, source in (branch for pair in BRANCHES for branch in pair):
            width = before_last if before == "as it is" and source == 0 else channels
            self._ops.append(_branch(what, width, channels, stride if source < 2 else 1))

    def forward(self, before_last: Map, last: Map) -> Map:
        states = [self.preprocess0(before_last), self.preprocess1(last)]
        for number, ((_, one), (_, other)) in enumerate(BRANCHES):
            states.append(self._ops[2 * number](states[one]) + self._ops[2 * number + 1](states[other]))
        return torch.cat(states[2:], dim=1)


class PNASNet(nn.Module):
    """The network up to its last cell; `width` is smaller than the published one only in tests."""

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.conv0 = nn.Conv2d(3, FIRST, 3, stride=2, bias=False)
        self.conv0_bn = nn.BatchNorm2d(FIRST, eps=EPSILON)
        self.stem1 = Cell(FIRST, FIRST, width // 4, 2, "as it is")
        before_last, last = SUMS * (width // 4), SUMS * (width // 2)
        self.stem2 = Cell(FIRST, before_last, width // 2, 2, "halved")
        self.cells = nn.ModuleList()
        before: Before = "halved"
        for number in range(CELLS):
            halves = number in (CELLS // 3, 2 * CELLS // 3)
            width *= 2 if halves else 1
            self.cells.append(Cell(before_last, last, width, 2 if halves else 1, before))
            before_last, last, before = last, SUMS * width, "halved" if halves else "same size"
        # Unused, but part of the published weights.
        self.classifier = nn.Linear(last, CLASSES)

    def forward(self, images: Float[Tensor, "image 3 256 256"]) -> tuple[Map, ...]:
        """Maps after the first convolution, after the stem's first cell, before each later halving, and at the end.

        Args:
            images: RGB in [-1, 1].
        """
        first = self.conv0_bn(self.conv0(images))
        before_last = self.stem1(first, first)
        found = [pad(first, (0, 1, 0, 1)), before_last]
        last = self.stem2(first, before_last)
        for number, cell in enumerate(self.cells, start=1):
            before_last, last = last, cell(before_last, last)
            found += [last] if number % (CELLS // 3) == 0 else []
        return tuple(found)
