"""The saliency backend of a name."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from con360av_jax.config.settings import require
from con360av_jax.errors import ConfigError
from preprocess.saliency.contract import SaliencyBackend, SaliencyDevice, SaliencyName
from preprocess.saliency.contrast import ContrastSaliency
from preprocess.saliency.given import FileSaliency


def _salvit360(weights: Path | None, device: SaliencyDevice) -> SaliencyBackend:
    """PyTorch is loaded here and not before, for the other backends do without it."""
    if weights is None:
        raise ConfigError("--saliency salvit360 needs the published checkpoint: give --saliency-weights FILE")
    require(find_spec("torch") is not None, "--saliency salvit360 needs torch: pip install -e '.[torch]'")
    from preprocess.saliency.salvit360.backend import open_salvit360

    return open_salvit360(weights, device)


SALIENCY_BACKENDS: dict[SaliencyName, Callable[[Path, Path | None, SaliencyDevice], SaliencyBackend]] = {
    "contrast": lambda folder, weights, device: ContrastSaliency(),
    "file": lambda folder, weights, device: FileSaliency(folder),
    "salvit360": lambda folder, weights, device: _salvit360(weights, device),
}


def open_saliency(name: SaliencyName, folder: Path, weights: Path | None, device: SaliencyDevice) -> SaliencyBackend:
    """The backend called `name`, ready for segments.

    Args:
        name: of SALIENCY_BACKENDS.
        folder: of the user's own maps, for "file".
        weights: SalViT360's checkpoint, for "salvit360".
        device: where "salvit360" computes.

    Raises ConfigError if the backend lacks an option, PyTorch or the device, and CheckpointError for other weights.
    """
    return SALIENCY_BACKENDS[name](folder, weights, device)
