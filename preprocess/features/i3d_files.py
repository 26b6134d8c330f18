"""I3D from files: pytorch-i3d's weights by name, or the published TorchScript program, which runs third-party code."""

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from con360av_jax.errors import CheckpointError, ConfigError, first_line
from con360av_jax.runtime.torch_files import CORRUPT, read_torch_file
from preprocess.features.i3d import CLASSES, InceptionI3d
from preprocess.torch_weights import require_named, with_weights

WEIGHTS = "pytorch-i3d's weights of Kinetics-400"


class ScriptedI3D:
    """The published program; only `load_scripted_i3d` makes it.

    Source: i3d_torchscript.pt, as StyleGAN-V and common_metrics_on_video_quality call it.
    """

    def __init__(self, program: Callable[..., Tensor], path: Path):
        self._program = program
        self._path = path

    def __call__(self, clips: Shaped[Tensor, "clip 3 frame row column"], prepare: bool) -> Float[Tensor, "clip 400"]:
        """Scores before the softmax.

        Args:
            clips: RGB in [0, 255] of any size, or in [-1, 1] with 224x224 pixels.
            prepare: whether the program rescales and resizes the clips.

        Raises CheckpointError if the program fails or returns something else.
        """
        try:
            scores = self._program(clips, rescale=prepare, resize=prepare, return_features=True)
        except (RuntimeError, TypeError) as error:
            # A program's error ends with its cause, after a trace through its code.
            cause = (str(error).strip() or repr(error)).splitlines()[-1][:160]
            raise CheckpointError(
                f"{self._path} failed on clips {tuple(clips.shape)}: {cause}; give i3d_torchscript.pt"
            ) from error
        if not isinstance(scores, Tensor) or scores.shape != (len(clips), CLASSES):
            given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise CheckpointError(
                f"{self._path} gives {given} for {len(clips)} clips, wanted {(len(clips), CLASSES)}; "
                "give i3d_torchscript.pt"
            )
        return scores.float()


def load_i3d(path: Path) -> InceptionI3d:
    """The network with pytorch-i3d's weights (such as rgb_imagenet.pt), in eval mode, float32, on the CPU.

    Raises CheckpointError if the file is missing, corrupt or could run code, or holds other weights than the network's.
    """
    if is_torchscript(path):
        raise CheckpointError(
            f"{path} is a TorchScript program, not weights: refused, nothing of it was run; if you trust it, open it "
            "with allow_code=True"
        )
    state = require_named(path, read_torch_file(path, torch.load, WEIGHTS), WEIGHTS)
    return with_weights(InceptionI3d, state, path, "I3D of RGB clips")


def load_scripted_i3d(path: Path, device: str = "cpu", *, allow_code: bool) -> ScriptedI3D:
    """The published TorchScript program, which is third-party code.

    Loading and calling it runs that code with the rights of this process: use it only for a file that you trust.

    Raises ConfigError unless `allow_code`; CheckpointError if the file is missing, corrupt or no TorchScript.
    """
    if not allow_code:
        raise ConfigError(f"{path} would run code of its own: if you trust it, open it with allow_code=True")
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; give i3d_torchscript.pt")
    if not is_torchscript(path):
        raise CheckpointError(f"{path} is no TorchScript program; give i3d_torchscript.pt, or leave allow_code out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch announces TorchScript's end
            program = torch.jit.load(path, map_location=device).eval()
    except CORRUPT as error:
        raise CheckpointError(f"{path} is corrupt: {first_line(error)}; get it again") from error
    return ScriptedI3D(program, path)


def is_torchscript(path: Path) -> bool:
    """Whether the file is a zip archive that holds a TorchScript program; false if the archive is corrupt."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
