"""YAMNet: an embedding and the scores of 521 AudioSet classes for each window of audio.

A Fréchet distance between its embeddings is a distance by YAMNet, not FAD by VGGish or LAION-CLAP.

Source: yamnet_audio_classifier_with_metadata.tflite of tensorflow/tflite-support (Apache-2.0): log-mel inside, 8-bit
weights, the class names in a zip appended to the file.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float32

from con360av_jax.errors import CheckpointError, ConfigError, MediaError, first_line

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

SAMPLE_RATE = 16_000
"""Sample rate of the input, Hz."""
WINDOW = 15_600
"""Length of a window, samples; 0.975 s."""
EMBEDDING, CLASSES = 1024, 521
NAMES_FILE = "yamnet_label_list.txt"
# Name of the last layer's input in the file.
EMBEDDING_TENSOR = "tower0/network/layer28/reduce_mean"


class Heard(NamedTuple):
    """Output of YAMNet."""

    embeddings: Float32[np.ndarray, "window 1024"]
    """Embeddings, 0 or more in steps of about 0.022, because they are scaled 8-bit numbers."""
    scores: Float32[np.ndarray, "window 521"]
    """Scores in [0, 1], independent of each other: several classes can be heard at once."""


class Places(NamedTuple):
    """Indices of the model's tensors; an embedding's 8-bit number means scale * (number - zero)."""

    sound: int
    scores: int
    embedding: int
    scale: float
    zero: int


@dataclass(frozen=True)
class YAMNet:
    """Maps windows of audio to embeddings and scores; one window after the other, in one thread."""

    interpreter: "Interpreter"
    places: Places
    class_names: tuple[str, ...]
    """Names of the columns of the scores."""

    def __call__(self, windows: Float32[np.ndarray, "window sample"]) -> Heard:
        """Embedding and scores of each window.

        Args:
            windows: one or more windows of WINDOW samples, mono at SAMPLE_RATE, in [-1, 1].

        Raises MediaError if there is none, or they have another length or dtype, or hold NaN or infinity.
        """
        if windows.ndim != 2 or windows.dtype != np.float32 or not len(windows) or windows.shape[1] != WINDOW:
            raise MediaError(
                f"windows of {windows.dtype} {windows.shape}: wanted float32 (window, {WINDOW}), at least one; mix or "
                "choose a channel, cut and convert it"
            )
        if not np.isfinite(windows).all():
            raise MediaError("windows that hold NaN or infinity: wanted finite audio; decode or record it again")
        embeddings, scores = zip(*map(self._window, windows), strict=True)
        return Heard(np.stack(embeddings), np.stack(scores))

    def _window(
        self, window: Float32[np.ndarray, "sample"]
    ) -> tuple[Float32[np.ndarray, "1024"], Float32[np.ndarray, "521"]]:
        self.interpreter.set_tensor(self.places.sound, window)
        self.interpreter.invoke()
        numbers = self.interpreter.get_tensor(self.places.embedding)[0, 0, 0].astype(np.float32)
        embedding = np.float32(self.places.scale) * (numbers - np.float32(self.places.zero))
        return embedding, self.interpreter.get_tensor(self.places.scores)[0]


def open_yamnet(weights: Path) -> YAMNet:
    """YAMNet with its published .tflite file.

    Raises ConfigError if ai-edge-litert is not installed, CheckpointError if the file is missing, corrupt or another
    model.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise ConfigError("YAMNet needs ai-edge-litert: pip install -e '.[features]'") from error
    if not weights.is_file():
        raise CheckpointError(f"{weights} is no file; give YAMNet's published .tflite file")
    names = _class_names(weights)
    try:
        interpreter = Interpreter(
            model_content=weights.read_bytes(),
            num_threads=1,
            experimental_preserve_all_tensors=True,
            # The default gives layers to XNNPACK, whose rounding differs: embeddings differ by up to three steps.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{weights} is corrupt or no .tflite file: {first_line(error)}; get it again") from error
    return YAMNet(interpreter, _places(weights, interpreter), names)


def _places(weights: Path, interpreter: "Interpreter") -> Places:
    """Indices of the tensors; raises CheckpointError if the model's tensors are not YAMNet's."""
    kinds = {detail["index"]: "sound" for detail in interpreter.get_input_details()}
    kinds |= {detail["index"]: "scores" for detail in interpreter.get_output_details()}
    wanted = {
        "sound": ((WINDOW,), np.float32),
        "scores": ((1, CLASSES), np.float32),
        "embedding": ((1, 1, 1, EMBEDDING), np.int8),
    }
    found = {}
    for detail in interpreter.get_tensor_details():
        kind = "embedding" if detail["name"] == EMBEDDING_TENSOR else kinds.get(detail["index"])
        if kind and (tuple(detail["shape"]), detail["dtype"]) == wanted[kind]:
            found[kind] = detail
    if missing := sorted(set(wanted) - set(found)):
        said = ", ".join(f"{kind} {wanted[kind][0]} {np.dtype(wanted[kind][1])}" for kind in missing)
        raise CheckpointError(f"{weights}: has no {said}; give YAMNet's published .tflite file")
    scale, zero = found["embedding"]["quantization"]
    sound, scores, embedding = (found[kind]["index"] for kind in ("sound", "scores", "embedding"))
    return Places(sound, scores, embedding, scale, zero)


def _class_names(weights: Path) -> tuple[str, ...]:
    """Class names in the zip archive at the file's end; raises CheckpointError if it is missing or malformed."""
    try:
        with zipfile.ZipFile(weights) as archive:
            names = archive.read(NAMES_FILE).decode().splitlines()
    except (zipfile.BadZipFile, KeyError, EOFError, OSError, UnicodeDecodeError, NotImplementedError) as error:
        raise CheckpointError(f"{weights}: has no {NAMES_FILE} at its end ({error}); get it again") from error
    if len(names) != CLASSES or not all(names) or len(set(names)) != CLASSES:
        raise CheckpointError(f"{weights}: names {len(names)} classes, wanted {CLASSES}, all different; get it again")
    return tuple(names)
