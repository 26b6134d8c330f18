"""TempSAL: a saliency map, 0 to 1, of where people look within five seconds in an ordinary (perspective) image.

One PNASNet with a decoder predicts where people look in each of five seconds, another one where they look in all of
them. A third decoder reads the first encoder's maps and these six predictions; its map is the result.

Source: Aydemir et al., CVPR 2023; names and order as in IVRL/Tempsal (MIT), keys of the weights as in
multilevel_tempsal.pt.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from con360av_jax.errors import MediaError
from con360av_jax.runtime.torch_files import read_torch_file
from preprocess.features.pnasnet import WIDTH, Map, PNASNet, tap_widths
from preprocess.torch_weights import require_named, with_weights

SIDE = 256
"""Height and width of an image and of its map, pixels."""
SECONDS = 5
DECODED = (512, 256, 270, 96, 128)
"""Channels after each step of a decoder, each of which doubles height and width."""
WEIGHTS = "TempSAL's multilevel_tempsal.pt"
# Batch size, which bounds memory: about 0.2 GB per image.
FRAMES_AT_ONCE = 4


class Upsampled(nn.Sequential):
    """3x3 convolution, ReLU, bilinear upsampling by 2."""

    def __init__(self, before: int, channels: int):
        super().__init__(nn.Conv2d(before, channels, 3, padding=1), nn.ReLU())

    def forward(self, input: Map) -> Map:
        return interpolate(super().forward(input), scale_factor=2, mode="bilinear", align_corners=True)


def _readout(*widths: int) -> nn.Sequential:
    """3x3 convolutions with ReLU between them, and a sigmoid."""
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Sigmoid())


class Branch(nn.Module):
    """A PNASNet with its decoder."""

    def __init__(self, readout: tuple[int, ...], width: int = WIDTH):
        super().__init__()
        self.pnas = PNASNet(width)
        first, *others = reversed(tap_widths(width))
        self.deconv_layer0 = Upsampled(first, DECODED[0])
        for number, (tap, before, after) in enumerate(zip(others, DECODED, DECODED[1:], strict=False), start=1):
            self.add_module(f"deconv_layer{number}", Upsampled(before + tap, after))
        self.deconv_layer5 = _readout(DECODED[-1], *readout)

    def forward(self, images: Float[Tensor, "image 3 256 256"]) -> tuple[Map, tuple[Map, ...], Map]:
        """The prediction, the encoder's maps, and the decoder's map after its first step."""
        taps = self.pnas(images)
        x = begun = self.deconv_layer0(taps[-1])
        for number, tap in enumerate(reversed(taps[:-1]), start=1):
            x = self.get_submodule(f"deconv_layer{number}")(torch.cat([x, tap], dim=1))
        return self.deconv_layer5(x), taps, begun


class TempSALNetwork(nn.Module):
    """The whole network; `width` is smaller than that of the published encoders only in tests."""

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.pnas_vol = Branch((64, 32, SECONDS), width)
        self.pnas_sal = Branch((128, 1), width)
        predictions = SECONDS + 1
        taps = tuple(reversed(tap_widths(width)))[1:]
        for number, (tap, before, after) in enumerate(zip(taps, DECODED, DECODED[1:], strict=False), start=1):
            self.add_module(f"deconv_layer{number}", Upsampled(before + tap + predictions, after))
        self.deconv_mix = _readout(DECODED[-1] + predictions, 16, 32, 1)

    def forward(self, images: Float[Tensor, "image 3 256 256"]) -> Float[Tensor, "image 256 256"]:
        """Saliency of the whole five seconds, 0 to 1.

        The published code divides the maps of single seconds by the largest value of the batch. Here it is each image's
        own largest value, which is the same for a batch of one.

        Args:
            images: RGB in [-1, 1].
        """
        at_all, _, _ = self.pnas_sal(images)
        by_second, taps, x = self.pnas_vol(images)
        by_second = by_second / by_second.amax(dim=(1, 2, 3), keepdim=True)
        predictions = torch.cat([at_all, by_second], dim=1)
        for number, tap in enumerate(reversed(taps[:-1]), start=1):
            small = interpolate(predictions, size=tap.shape[2:], mode="bicubic", align_corners=False)
            x = self.get_submodule(f"deconv_layer{number}")(torch.cat([x, tap, small], dim=1))
        return rearrange(self.deconv_mix(torch.cat([x, predictions], dim=1)), "image 1 row column -> image row column")


@dataclass(frozen=True)
class TempSAL:
    """Maps frames to saliency; `network` is in eval mode on `device`."""

    network: TempSALNetwork
    device: str = "cpu"

    def __call__(self, images: UInt8[np.ndarray, "frame height width 3"]) -> Float32[np.ndarray, "frame 256 256"]:
        """Saliency of each RGB frame, which Pillow stretches to 256x256, bilinearly with antialiasing.

        Raises MediaError for frames of another shape or dtype, or without pixels.
        """
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not all(images.shape[1:3]):
            raise MediaError(f"images are {images.dtype} {images.shape}; wanted uint8 (frame, height, width, 3)")
        maps = [np.zeros((0, SIDE, SIDE), np.float32)]
        for first in range(0, len(images), FRAMES_AT_ONCE):
            some = np.stack([stretched(image) for image in images[first : first + FRAMES_AT_ONCE]])
            with torch.inference_mode():
                batch = rearrange(torch.from_numpy(some).to(self.device), "n row column rgb -> n rgb row column")
                maps.append(self.network(batch.float() / 127.5 - 1).cpu().numpy())
        return np.concatenate(maps)


def stretched(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "256 256 3"]:
    """An image stretched to the network's input size."""
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def open_tempsal(weights: Path, device: str = "cpu") -> TempSAL:
    """TempSAL with the published checkpoint; raises CheckpointError if the file is another one."""
    return TempSAL(load_tempsal(weights).to(device), device)


def load_tempsal(path: Path, width: int = WIDTH) -> TempSALNetwork:
    """The network of the published checkpoint, in eval mode, float32, on the CPU.

    Raises CheckpointError if the file is missing, corrupt or could run code, or if any key is missing, unexpected or of
    another shape than in the network; the message lists all of them.
    """
    state = require_named(path, read_torch_file(path, torch.load, WEIGHTS), WEIGHTS)
    return with_weights(lambda: TempSALNetwork(width), state, path, "TempSAL", published_key)


def published_key(name: str) -> str:
    """Name of a weight in the checkpoint, in which both branches were wrapped twice for several GPUs."""
    return re.sub(r"^(pnas_vol|pnas_sal)\.", r"\1.module.module.", name)
