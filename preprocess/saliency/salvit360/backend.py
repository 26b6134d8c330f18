"""The `salvit360` saliency backend: windows of eight frames slide over a segment, and each frame is encoded once.

The map of frame t is the network's output for frames t-7 to t. Seven copies of the first frame precede it, so that
every frame has a map. The weights were trained at 16 frames/s; a segment's frames are used at the config's rate
(8 frames/s in the published setting), so a window spans 1 s instead of 0.5 s.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from con360av_jax.config.settings import Config, require
from con360av_jax.sphere.geometry import minmax
from preprocess.saliency.salvit360.checkpoint import load_salvit360
from preprocess.saliency.salvit360.network import INPUT_SIZE, SalViT360
from preprocess.saliency.salvit360.resnet import fold_norms
from preprocess.saliency.salvit360.transformer import FRAMES
from preprocess.stages.segment import Segment

# Batch size, which bounds memory for videos of any length.
FRAMES_AT_ONCE = 4


@dataclass(frozen=True)
class SalViT360Saliency:
    """The backend; `network` is in eval mode."""

    network: SalViT360
    device: Literal["cpu", "cuda"]
    weights: Path | None = None
    """File of the network; another process opens it instead of receiving the network."""

    @property
    def on_gpu(self) -> bool:
        """Whether the network runs on a GPU."""
        return self.device == "cuda"

    def __reduce__(self) -> tuple:
        if self.weights is None:
            return SalViT360Saliency, (self.network, self.device)
        return open_salvit360, (self.weights, self.device)

    def __call__(self, segment: Segment, config: Config) -> Float32[np.ndarray, "frame height width"]:
        """Saliency of a segment, see `SaliencyBackend`."""
        size = (config.clip.map_width, config.clip.map_height)
        maps = predicted_maps(self.network, segment.frames, self.device)
        return minmax(np.stack([cv2.resize(saliency, size, interpolation=cv2.INTER_AREA) for saliency in maps]))


def open_salvit360(weights: Path, device: Literal["cpu", "cuda"]) -> SalViT360Saliency:
    """The backend with a published checkpoint; raises CheckpointError, or ConfigError if there is no such device."""
    require(
        device == "cpu" or torch.cuda.is_available(),
        "PyTorch finds no GPU for --saliency-device cuda; install PyTorch for CUDA, or give cpu",
    )
    network = load_salvit360(weights)
    fold_norms(network.feature_extractor)
    return SalViT360Saliency(network.to(device), device, weights)


def predicted_maps(
    network: SalViT360,
    frames: UInt8[np.ndarray, "frame height width 3"],
    device: str,
    frames_at_once: int = FRAMES_AT_ONCE,
) -> Iterator[Float32[np.ndarray, "row column"]]:
    """The network's map of every frame, 480x960, not normalised; independent of `frames_at_once`."""
    earlier: list[Tensor] = []
    for first in range(0, len(frames), frames_at_once):
        with torch.inference_mode():
            encoded = network.encode(_resized(frames[first : first + frames_at_once]).to(device))
            earlier = earlier or [tokens[:1].expand(FRAMES - 1, -1, -1) for tokens, _ in encoded]
            known = [torch.cat([before, tokens]) for before, (tokens, _) in zip(earlier, encoded, strict=True)]
            earlier = [tokens[1 - FRAMES :] for tokens in known]
            windows = [
                rearrange(tokens.unfold(0, FRAMES, 1), "window tangent width frame -> window frame tangent width")
                for tokens in known
            ]
            saliency = network.predict(windows, [maps for _, maps in encoded])
        yield from saliency.cpu().numpy()


def _resized(frames: UInt8[np.ndarray, "frame row column 3"]) -> Float[Tensor, "frame 3 height width"]:
    """Frames resized to the network's input size, in [0, 1]."""
    height, width = INPUT_SIZE
    method = cv2.INTER_AREA if frames.shape[1] > height else cv2.INTER_LINEAR
    resized = np.stack([cv2.resize(frame, (width, height), interpolation=method) for frame in frames])
    return (
        rearrange(torch.from_numpy(resized), "frame height width channel -> frame channel height width").float() / 255
    )
