"""Choice of the saliency backend by its name."""

from importlib.util import find_spec
from pathlib import Path

from con360av_jax.config.settings import require
from con360av_jax.errors import ConfigError
from preprocess.choices import SaliencyDevice, SaliencyName
from preprocess.saliency.contract import SaliencyBackend
from preprocess.saliency.contrast import segment_contrast
from preprocess.saliency.given import FileSaliency


def open_saliency(name: SaliencyName, folder: Path, weights: Path | None, device: SaliencyDevice) -> SaliencyBackend:
    """The backend called `name`, ready for segments.

    Args:
        name: backend.
        folder: the user's own maps, for "file".
        weights: published checkpoint, for "salvit360".
        device: device of "salvit360".

    Raises:
        ConfigError: an option of the backend is missing, or PyTorch or the device is not there.
        CheckpointError: `weights` is not a published checkpoint.
    """
    if name == "contrast":
        return segment_contrast
    if name == "file":
        return FileSaliency(folder)
    if weights is None:
        raise ConfigError("--saliency salvit360 needs the published checkpoint: give --saliency-weights FILE")
    require(find_spec("torch") is not None, "--saliency salvit360 needs torch: pip install -e '.[torch]'")
    # Imports PyTorch, which the other backends do without.
    from preprocess.saliency.salvit360.backend import open_salvit360

    return open_salvit360(weights, device)
