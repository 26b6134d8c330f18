"""CLAP: audio to one embedding of unit length, with a folder of transformers' ClapModel.

A Fréchet distance between its embeddings is FAD with the CLAP of that folder. laion/clap-htsat-unfused and LAION's
music checkpoints give different numbers, so state the folder beside each number.

Source: Wu et al., ICASSP 2023; sample rate, window and mel filters are read from the folder's preprocessor_config.json.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import normalize

from con360av_jax.errors import CheckpointError, MediaError, first_line
from con360av_jax.runtime.torch_files import CORRUPT

if TYPE_CHECKING:
    from transformers import ClapFeatureExtractor, ClapModel

# Batch size, which bounds memory.
WAVEFORMS_AT_ONCE = 8
# Stored by some versions of transformers, recomputed by this one.
RECOMPUTED = "position_ids"


@dataclass(frozen=True)
class CLAP:
    """Maps audio to embeddings; `model` is in eval mode on `device`."""

    model: "ClapModel"
    extractor: "ClapFeatureExtractor"
    device: str = "cpu"
    name: str = ""
    """Name of the published model, if the folder's config.json says it."""

    @property
    def described(self) -> str:
        """Description of the model by the folder's config: name if given, sizes of the encoders, embedding width."""
        config: Any = self.model.config  # transformers types parts of a config as dicts
        audio, text = config.audio_config, config.text_config
        depths = "-".join(map(str, audio.depths))
        words = f"CLAP: HTSAT of depths {depths} and width {audio.patch_embeds_hidden_size}"
        words += f", {'with' if audio.enable_fusion else 'without'} fusion, text of depth {text.num_hidden_layers}"
        words += f" and width {text.hidden_size}, embeddings of {config.projection_dim}"
        return f"{words} ({self.name})" if self.name else words

    @property
    def sample_rate(self) -> int:
        """Sample rate of the input, Hz; 48,000 in the published models."""
        return int(self.extractor.sampling_rate)

    def __call__(self, waveforms: Sequence[Float32[np.ndarray, "sample"]]) -> Float32[np.ndarray, "waveform width"]:
        """One embedding of unit length per waveform, 512 wide in the published models.

        A waveform shorter than the model's window (10 s) is repeated as often as it fits whole, then padded with
        zeros. Of a longer one the first window is used, where the published code takes a random one.

        Args:
            waveforms: mono audio of any length at `sample_rate`, in [-1, 1].

        Raises MediaError for audio that is empty, has several channels or another dtype, or holds NaN or infinity.
        """
        for audio in waveforms:
            if audio.ndim != 1 or audio.dtype != np.float32 or not len(audio) or not np.isfinite(audio).all():
                raise MediaError(
                    f"a waveform of {audio.dtype} {audio.shape}: wanted float32 (sample,), not empty, finite; mix or "
                    "choose a channel and convert it"
                )
        window = int(self.extractor.nb_max_samples)
        embeddings = [np.zeros((0, self.model.config.projection_dim), np.float32)]
        for first in range(0, len(waveforms), WAVEFORMS_AT_ONCE):
            given = self.extractor(
                [waveform[:window] for waveform in waveforms[first : first + WAVEFORMS_AT_ONCE]],
                sampling_rate=self.sample_rate,
                padding="repeatpad",
                return_tensors="pt",
            )
            with torch.inference_mode():
                # Set here, because the extractor marks a random waveform if none is longer than a window.
                longer = torch.zeros_like(given["is_longer"], device=self.device)
                answer: Any = self.model.get_audio_features(given["input_features"].to(self.device), is_longer=longer)
            vectors: Tensor = answer.pooler_output
            embeddings.append(normalize(vectors.float(), dim=-1).cpu().numpy())
        return np.concatenate(embeddings)


def open_clap(folder: Path, device: str = "cpu") -> CLAP:
    """Opens CLAP from a folder in transformers' layout, with preprocessor_config.json; downloads nothing.

    Raises CheckpointError if the folder is missing or corrupt, holds another model or lacks weights.
    """
    from safetensors import SafetensorError
    from transformers import ClapFeatureExtractor, ClapModel

    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: has no {name}; give a folder of transformers' ClapModel")
    try:
        extractor = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        loaded: Any = ClapModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (*CORRUPT, SafetensorError) as error:
        raise CheckpointError(f"{folder}: is no ClapModel: {first_line(error)}; get it again") from error
    model, report = loaded
    found = [
        f"{name} is {kind}"
        for kind in ("missing", "unexpected", "mismatched")
        for name in sorted(map(str, report[f"{kind}_keys"]))
        if not name.endswith(RECOMPUTED)
    ]
    if found:
        raise CheckpointError(f"{folder}: is another model, {len(found)} problems: {'; '.join(found)}")
    name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path", "")
    return CLAP(model.to(device).eval().requires_grad_(False), extractor, device, str(name))
