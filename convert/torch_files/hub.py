"""Hugging Face ids as sources: downloaded only with --from-hub."""

import re
from pathlib import Path, PurePosixPath

from con360av_jax.errors import CheckpointError
from convert.torch_files.choice import LOOSE, wanted

TEXTS = (".json", ".txt")


def local(source: Path, from_hub: bool) -> Path:
    """`source` if it exists, or the folder that the Hugging Face id it names is downloaded to.

    Raises CheckpointError if there is no such path and it is not an id, `from_hub` is False, or the download fails.
    """
    name = source.as_posix()
    if source.exists():
        return source
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointError(f"no such file or folder: {source}")
    if not from_hub:
        raise CheckpointError(
            f"no such file or folder: {source}; if it is a Hugging Face id, give --from-hub to download it"
        )
    from huggingface_hub import HfApi, snapshot_download

    try:
        files = HfApi().list_repo_files(name)
        return Path(snapshot_download(name, allow_patterns=wanted_files(files)))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{name} cannot be downloaded: {str(error).strip() or repr(error)}") from error


def wanted_files(files: list[str]) -> list[str]:
    """Selects text files and the weights that would be read of each folder (choice.py)."""
    texts = [name for name in files if name.endswith(TEXTS)]
    folders: dict[PurePosixPath, list[str]] = {}
    for path in map(PurePosixPath, files):
        if path.suffix in LOOSE:
            folders.setdefault(path.parent, []).append(path.name)
    # A pipeline's root may hold the whole model once more as one checkpoint.
    networks = [folder for folder in folders if folder != PurePosixPath() or len(folders) == 1]
    return texts + [str(folder / name) for folder in networks for name in wanted(folders[folder])]
