"""FastGaze: a density of where people look first in an ordinary (perspective) image.

image -> short side 480 -> 10 convolutions 3x3 with ReLU, halved four times -> 4 convolutions 1x1 with PReLU
      -> Gaussian blur -> softmax over all cells: a density at a sixteenth of the resized image's resolution.

All borders are zero-padded to 'same' size. A distance between its maps is a distance by FastGaze, not S_KL by TempSAL.

Source: bin/fastgaze.vxm of twitter-research/image-crop-analysis (Apache-2.0), 121,060 weights and 4 slopes;
the file states layers and activations. Colour order, means and image size are undocumented and were found by trial on
images with known fixations.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn.functional import conv2d

from con360av_jax.errors import MediaError
from preprocess.features.vxm import Wanted, read_vxm

# Channels of the convolutions: 3x3 with ReLU, halved between the tuples; then 1x1 with PReLU.
STAGES = ((3, 43, 44), (44, 49, 56), (56, 44, 38), (38, 31, 20), (20, 18, 10))
READOUT = (10, 7, 7, 2, 1)
BLUR_TAPS, BLUR_DEVIATION = 19, 3
"""Width and standard deviation of the Gaussian blur, cells."""
STRIDE = 16
"""Pixels of the resized image per cell and axis."""
SHORT_SIDE = 480
"""Shorter side of a resized image, pixels."""
# The file's numbers for kinds of layers and activations.
CONVOLUTION, POOL, BLUR = 0, 2, 3
RELU, PRELU = 1, 4
MODEL_TYPE = 2
# Names of a convolution's tensors in the file and in this network.
PLACES = {"w": "0.weight", "b": "0.bias", "alpha": "1.weight"}
# Means of red, green and blue, 0 to 255.
MEANS = (123.68, 116.779, 103.939)


class Blur(nn.Module):
    """Convolution of one channel with a normalised Gaussian, without weights."""

    def __init__(self):
        super().__init__()
        # On the CPU even if the weights are built on the meta device.
        places = torch.arange(BLUR_TAPS, device="cpu", dtype=torch.float32) - BLUR_TAPS // 2
        taps = torch.exp(-(places**2) / (2 * BLUR_DEVIATION**2))
        self.register_buffer("taps", taps / taps.sum(), persistent=False)
        self.taps: Tensor

    def forward(self, x: Float[Tensor, "image 1 row column"]) -> Float[Tensor, "image 1 row column"]:
        """Blurs along columns, then along rows, with zero padding."""
        x = conv2d(x, self.taps[None, None, :, None], padding=(BLUR_TAPS // 2, 0))
        return conv2d(x, self.taps[None, None, None, :], padding=(0, BLUR_TAPS // 2))


def _convolution(in_channels: int, channels: int, size: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, size, padding=size // 2), activation)


class FastGazeNetwork(nn.Module):
    """The network; `layers` are in the file's order."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        for number, widths in enumerate(STAGES):
            layers += [nn.MaxPool2d(2)] if number else []
            layers += [_convolution(before, after, 3, nn.ReLU()) for before, after in pairwise(widths)]
        layers += [_convolution(before, after, 1, nn.PReLU()) for before, after in pairwise(READOUT)]
        self.layers = nn.Sequential(*layers, Blur())
        self.register_buffer("means", torch.tensor(MEANS, device="cpu")[:, None, None], persistent=False)
        self.means: Tensor

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image row column"]:
        """Densities that sum to 1 over an image's cells of STRIDE x STRIDE pixels.

        Args:
            images: RGB in [0, 255], with sides that are multiples of STRIDE.
        """
        scores = self.layers(images - self.means)
        cells = rearrange(scores, "image 1 row column -> image (row column)").softmax(dim=1)
        return rearrange(cells, "image (row column) -> image row column", row=scores.shape[2])


@dataclass(frozen=True)
class FastGaze:
    """Maps frames to densities; `network` is in eval mode on `device`."""

    network: FastGazeNetwork
    device: str = "cpu"

    def __call__(self, images: UInt8[np.ndarray, "frame height width 3"]) -> Float32[np.ndarray, "frame row column"]:
        """The density of each RGB frame, 0 or more and summing to 1, on cells of STRIDE pixels of the resized frame.

        Frames are resized (by area where they shrink, bilinearly where they grow) so that the shorter side has
        SHORT_SIDE pixels and the longer one the multiple of STRIDE nearest to its scaled length: 256x256 gives 30x30
        cells, 720x1280 gives 30x53. A frame's density does not depend on other frames.

        Raises MediaError for frames of another shape or dtype, or without pixels.
        """
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not all(images.shape[1:3]):
            raise MediaError(f"images are {images.dtype} {images.shape}; wanted uint8 (frame, height, width, 3)")
        height, width = resized_shape(images.shape[1], images.shape[2])
        densities = [np.zeros((0, height // STRIDE, width // STRIDE), np.float32)]
        # One by one: on a CPU, batches of four take a third longer than single images.
        for image in images:
            with torch.inference_mode():
                pixels = torch.from_numpy(_resized(image, height, width)).to(self.device)
                density = self.network(rearrange(pixels, "row column rgb -> 1 rgb row column").float())
            densities.append(density.cpu().numpy())
        return np.concatenate(densities)


def open_fastgaze(weights: Path, device: str = "cpu") -> FastGaze:
    """FastGaze with the published .vxm file; raises CheckpointError if the file is another one."""
    return FastGaze(load_fastgaze(weights).to(device), device)


def load_fastgaze(path: Path) -> FastGazeNetwork:
    """The network of the published file, in eval mode, float32, on the CPU.

    Raises CheckpointError if the file is missing or corrupt, or its entries differ from the network's.
    """
    with torch.device("meta"):
        network = FastGazeNetwork()
    tensors = {}
    for name, values in read_vxm(path, file_entries(network)).items():
        layer, kind = re.findall(r"\d+|\D+", name)
        tensors[f"layers.{layer}.{PLACES[kind]}"] = torch.from_numpy(values)
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


def file_entries(network: FastGazeNetwork) -> dict[str, Wanted]:
    """Entries that the network's file must have: values of integers, shapes of tensors."""
    entries: dict[str, Wanted] = {"layerCount": len(network.layers), "modelType": MODEL_TYPE}
    for number, layer in enumerate(network.layers):
        match layer:
            case nn.MaxPool2d():
                entries |= {f"{number}Type": POOL, f"{number}Pool": 2}
            case Blur():
                entries |= {f"{number}Type": BLUR, f"{number}KernelSize": BLUR_TAPS, f"{number}Std": BLUR_DEVIATION}
            case nn.Sequential():
                shapes = {name: tuple(weight.shape) for name, weight in layer.named_parameters()}
                entries |= {f"{number}Type": CONVOLUTION, f"{number}Act": PRELU if "1.weight" in shapes else RELU}
                entries |= {f"{number}w": shapes["0.weight"], f"{number}b": shapes["0.bias"]}
                entries |= {f"{number}alpha": shapes["1.weight"]} if "1.weight" in shapes else {}
    return entries


def resized_shape(height: int, width: int) -> tuple[int, int]:
    """Height and width of a resized image, pixels."""
    scale = SHORT_SIDE / min(height, width)
    return STRIDE * round(height * scale / STRIDE), STRIDE * round(width * scale / STRIDE)


def _resized(image: UInt8[np.ndarray, "row column 3"], height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    shrinks = image.shape[0] > height or image.shape[1] > width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
