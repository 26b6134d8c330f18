"""ResNet-18 without its classifier, SalViT360's encoder of tangent images; modules are numbered as in torchvision.

Source: He et al., "Deep residual learning for image recognition", CVPR 2016.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a strided 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, eps=1e-5)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, eps=1e-5)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels, eps=1e-5))

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch out_channel row column"]:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu_(self.bn1(self.conv1(x)))
        return torch.relu_(self.bn2(self.conv2(x)) + shortcut)


def resnet18() -> nn.Sequential:
    """Maps images (batch, 3, 224, 224), normalised as for ImageNet, to features (batch, 512, 7, 7)."""
    stem = (
        nn.Conv2d(3, WIDTHS[0], 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(WIDTHS[0], eps=1e-5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    stages = [nn.Sequential(BasicBlock(WIDTHS[0], WIDTHS[0], 1), BasicBlock(WIDTHS[0], WIDTHS[0], 1))]
    for before, width in pairwise(WIDTHS):
        stages.append(nn.Sequential(BasicBlock(before, width, 2), BasicBlock(width, width, 1)))
    return nn.Sequential(*stem, *stages)


def fold_norms(module: nn.Module) -> None:
    """Folds every batch norm into the convolution before it, in place, for faster inference.

    The new weights are stored channels-last, which is faster. `module` must be in eval mode. Its state dict changes, so
    weights must be loaded first.
    """
    for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            folded = fuse_conv_bn_eval(conv, norm).requires_grad_(False)
            folded.weight.data = folded.weight.contiguous(memory_format=torch.channels_last)
            setattr(module, conv_name, folded)
            setattr(module, norm_name, nn.Identity())
    for child in module.children():
        fold_norms(child)
