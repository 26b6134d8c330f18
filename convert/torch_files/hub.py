"""Hugging Face ids as sources: downloaded only with --from-hub."""

import re
from pathlib import Path, PurePosixPath

from con360av_jax.errors import CheckpointError

TEXTS = (".json", ".txt")
WEIGHTS = (".safetensors", ".bin", ".ckpt")


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
    """Selects text files and one weight format per folder (safetensors if present), without half-precision copies."""
    wanted = [name for name in files if name.endswith(TEXTS)]
    weights: dict[PurePosixPath, list[str]] = {}
    for name in files:
        if name.endswith(WEIGHTS) and not re.search(r"\.(fp16|non_ema)[.-]", name):
            weights.setdefault(PurePosixPath(name).parent, []).append(name)
    for folder, names in weights.items():
        # A pipeline's root may hold the whole model once more as one checkpoint.
        if folder != PurePosixPath() or len(weights) == 1:
            safe = [name for name in names if name.endswith(".safetensors")]
            wanted += safe or names
    return wanted
