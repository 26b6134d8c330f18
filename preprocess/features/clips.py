"""I3D scores of clips, which are resized in one of the two ways of published numbers.

stylegan-v   each frame stretched to 224x224, whatever its shape
videogpt     the shorter side resized to 224, then a square cut out of the middle

Both are bilinear between pixel centres without smoothing, and map 0..255 to [-1, 1]; square clips come out the same.

Source: StyleGAN-V's calc_metrics_for_dataset, whose TorchScript file does the stretching (how: not confirmed),
and common_metrics_on_video_quality, in which the second is named videogpt.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from con360av_jax.errors import MediaError
from preprocess.features.i3d import CLASSES, FEWEST_FRAMES, SIDE, InceptionI3d
from preprocess.features.i3d_files import ScriptedI3D, load_i3d, load_scripted_i3d

Convention: TypeAlias = Literal["stylegan-v", "videogpt"]
FEWEST: dict[Convention, int] = {"stylegan-v": FEWEST_FRAMES, "videogpt": 10}
"""Fewest frames per clip; for videogpt, the published code requires one more than the network."""
# Batch size, which bounds memory: about 0.3 GB per clip of 32 frames.
CLIPS_AT_ONCE = 4


@dataclass(frozen=True)
class I3D:
    """Maps clips to scores; `network` is in eval mode on `device`."""

    network: InceptionI3d | ScriptedI3D
    convention: Convention
    device: str = "cpu"

    def __call__(self, clips: UInt8[np.ndarray, "clip frame height width 3"]) -> Float32[np.ndarray, "clip 400"]:
        """Scores of the Kinetics actions before the softmax; a clip's scores do not depend on other clips.

        Args:
            clips: RGB, with at least as many frames as the convention requires.

        Raises MediaError for clips of another shape or dtype or with fewer frames.
        """
        fewest = FEWEST[self.convention]
        if clips.ndim != 5 or clips.shape[4] != 3 or clips.dtype != np.uint8 or not all(clips.shape[2:4]):
            raise MediaError(
                f"clips are {clips.dtype} {clips.shape}; wanted uint8 (clip, frame, height, width, 3): convert them"
            )
        if clips.shape[1] < fewest:
            raise MediaError(
                f"clips have {clips.shape[1]} frames; I3D with {self.convention} wants {fewest} or more: "
                "give longer clips"
            )
        scores = [np.zeros((0, CLASSES), np.float32)]
        with torch.inference_mode():
            for first in range(0, len(clips), CLIPS_AT_ONCE):
                some = torch.from_numpy(clips[first : first + CLIPS_AT_ONCE]).to(self.device)
                some = rearrange(some, "clip frame height width rgb -> clip rgb frame height width")
                scores.append(self._scores(some).cpu().numpy())
        return np.concatenate(scores)

    def _scores(self, clips: UInt8[Tensor, "clip 3 frame height width"]) -> Float[Tensor, "clip 400"]:
        if not isinstance(self.network, ScriptedI3D):
            return self.network(prepared(clips, self.convention))
        if self.convention == "stylegan-v":
            return self.network(clips, prepare=True)
        return self.network(prepared(clips, self.convention), prepare=False)


def open_i3d(weights: Path, convention: Convention, device: str = "cpu", *, allow_code: bool = False) -> I3D:
    """I3D with pytorch-i3d's weights, or with `allow_code` the published TorchScript program.

    The program runs third-party code with the rights of this process: allow it only for a file that you trust.

    Raises CheckpointError if the file is missing, corrupt or of the other kind.
    """
    if allow_code:
        return I3D(load_scripted_i3d(weights, device, allow_code=True), convention, device)
    return I3D(load_i3d(weights).to(device), convention, device)


def prepared(
    clips: UInt8[Tensor, "clip 3 frame height width"], convention: Convention
) -> Float[Tensor, "clip 3 frame row column"]:
    """Resizes clips to 224x224 and scales them to [-1, 1], as the network takes them."""
    frames = rearrange(clips, "clip rgb frame height width -> (clip frame) rgb height width").float()
    height = width = SIDE
    if convention == "videogpt":
        # The longer side is rounded up.
        height, width = (math.ceil(size * SIDE / min(clips.shape[3:])) for size in clips.shape[3:])
    frames = interpolate(frames, size=(height, width), mode="bilinear", align_corners=False, antialias=False)
    top, left = (height - SIDE) // 2, (width - SIDE) // 2
    frames = frames[:, :, top : top + SIDE, left : left + SIDE] / 127.5 - 1
    return rearrange(frames, "(clip frame) rgb row column -> clip rgb frame row column", clip=len(clips))
