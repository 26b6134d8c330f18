"""Folders of transformers models: finding them, their revision, and loading that accepts no missing weights."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from con360av_jax.errors import CheckpointError, ConfigError
from preprocess.captions.blip2_llama.prompts import Prompts

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bfloat16", "float16"]
# Files that determine a model's revision; readmes and other frameworks' weights do not.
MODEL_FILES = (".json", ".txt", ".model", ".jinja", ".safetensors", ".bin")
# Not downloaded; Llama's repositories, for example, hold the weights a second time in Meta's own format.
UNWANTED = ("original/*", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack")


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A model's folder, name and revision."""

    path: Path
    name: str
    revision: str
    """Commit of a model from the hub, or a hash of the folder's files."""

    @property
    def source(self) -> dict[str, str]:
        """Mark of the texts that the model wrote."""
        return {"model": self.name, "revision": self.revision}


def open_model_folder(given: str, option: str, from_hub: bool = False) -> ModelFolder:
    """The model in folder `given`, or with that Hugging Face id, from the local cache or, with `from_hub`, the hub.

    Raises CheckpointError, which names the command line's `option`, if there is none or it cannot be downloaded.
    """
    path = Path(given)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(f"{path}: holds no config.json; give {option} a transformers model's folder")
        return ModelFolder(path=path, name=path.resolve().name, revision=_content_digest(path))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", given):
        raise CheckpointError(f"no such folder: {given}; give {option} a transformers model's folder or an id")
    snapshot = _snapshot(given, from_hub)
    return ModelFolder(path=snapshot, name=given, revision=snapshot.name)


def _snapshot(name: str, from_hub: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        if not from_hub:
            return Path(snapshot_download(name, local_files_only=True))
        safe = any(file.endswith(".safetensors") for file in HfApi().list_repo_files(name))
        return Path(snapshot_download(name, ignore_patterns=[*UNWANTED, *(["*.bin"] if safe else [])]))
    except (OSError, ValueError) as error:
        if not from_hub:
            raise CheckpointError(
                f"no such folder: {name}; if it is a Hugging Face id, give --from-hub to download it"
            ) from error
        raise CheckpointError(f"{name} cannot be downloaded: {str(error).strip() or repr(error)}") from error


def model_type(folder: Path) -> str:
    """The model_type in config.json; raises CheckpointError if there is none."""
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: config.json names no model_type ({error!r}); give a model's folder"
        ) from error


def require_torch() -> None:
    """Raises CheckpointError, which names the extra to install, if torch or Pillow is missing."""
    for module in ("torch", "PIL"):
        try:
            import_module(module)
        except ImportError as error:
            raise CheckpointError(f"--captions blip2+llama needs {module}: pip install -e '.[torch]'") from error


def choose_device(name: str) -> "torch.device":
    """The device called `name`, or for "auto" a GPU if there is one; raises ConfigError if it does not exist."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        # Counted rather than opened: a process that only starts others should take no GPU memory.
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise RuntimeError(f"{torch.cuda.device_count()} CUDA devices")
        if device.type != "cuda":
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"--caption-device {name}: not on this machine ({reason}); give auto, cpu or cuda") from error
    return device


def _dtype(precision: Precision, device: "torch.device") -> "torch.dtype":
    """The dtype called `precision`; "auto" is bfloat16 or else float16 on a GPU, and float32 elsewhere."""
    import torch

    if precision != "auto":
        return getattr(torch, precision)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


class TextModel(ABC):
    """A loaded model that writes one text per item, in batches."""

    def __init__(
        self, folder: Path, device: str = "auto", dtype: Precision = "auto", *, prompts: Prompts, batch_size: int = 8
    ):
        """Loads the model.

        Args:
            folder: folder of the model, with its tokenizer.
            device: "auto", "cpu", "cuda", "cuda:1" ..
            dtype: dtype of weights and activations; in float16 BLIP-2's Q-Former stays float32.
            prompts: prompts of both models.
            batch_size: items per call of the model.

        Raises:
            CheckpointError: the folder holds another model, or an incomplete or corrupt one.
            ConfigError: no such device, or it is full.
        """
        self.batch_size, self._prompts, self._folder = batch_size, prompts, folder
        self._device = choose_device(device)
        self._dtype = _dtype(dtype, self._device)
        self._open()

    @abstractmethod
    def _open(self) -> None:
        """Loads the model and its tokenizer."""

    @abstractmethod
    def _batch(self, items: Any) -> list[str]:
        """One text per item of a batch."""

    def __call__(self, items: Sequence[Any] | np.ndarray) -> list[str]:
        """One text per item, which may be empty; raises ConfigError if a batch exceeds the device's memory."""
        texts: list[str] = []
        for first in range(0, len(items), self.batch_size):
            with fits(self._device, f"it writes {self.batch_size} texts at once"):
                texts += self._batch(items[first : first + self.batch_size])
        return texts

    def _load(self, model_class: Any) -> Any:
        """The model in eval mode; raises CheckpointError if weights are corrupt, missing or do not fit."""
        from safetensors import SafetensorError
        from transformers.utils import logging

        # The stages have a progress bar of their own.
        logging.disable_progress_bar()
        with fits(self._device, "loading"):
            try:
                model, report = model_class.from_pretrained(
                    self._folder, dtype=self._dtype, local_files_only=True, output_loading_info=True
                )
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                raise CheckpointError(f"{self._folder}: cannot be loaded as {model_class.__name__}: {error}") from error
            # transformers would use random weights in their place.
            missing = sorted(report["missing_keys"])
            if missing:
                raise CheckpointError(
                    f"{self._folder}: lacks {len(missing)} weights, such as {missing[0]}; download it again"
                )
            return model.to(self._device).eval()


def generate_greedily(generation: Any, new_tokens: int) -> None:
    """Sets a model to always take the likeliest token, so that its texts are reproducible."""
    generation.do_sample, generation.num_beams = False, 1
    # Llama's own settings sample; transformers would warn about them.
    generation.temperature = generation.top_p = generation.top_k = None
    generation.max_length, generation.max_new_tokens = None, new_tokens


@contextmanager
def fits(device: "torch.device", what: str) -> Generator[None]:
    """Raises ConfigError in place of an out-of-memory error in the block."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"{device} is full while {what}: lower --caption-batch, choose another --caption-device, or set "
            "XLA_PYTHON_CLIENT_PREALLOCATE=false so that JAX leaves memory free"
        ) from error


def _content_digest(folder: Path) -> str:
    """Digest of the names and contents of MODEL_FILES."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in MODEL_FILES:
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]
