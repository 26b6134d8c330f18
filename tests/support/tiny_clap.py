"""A CLAP of a few numbers, saved by transformers."""

from pathlib import Path
from typing import Any

import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel


def write_clap(folder: Path, **window: Any) -> Path:
    """Saves a CLAP with random weights; `window`: hop_length, max_length_s, fft_window_size of its mel."""
    torch.manual_seed(0)
    text = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    audio = {
        "spec_size": 64, "num_mel_bins": 16, "window_size": 4, "patch_embeds_hidden_size": 8, "hidden_size": 16,
        "depths": [1, 1], "num_attention_heads": [2, 2], "num_hidden_layers": 2, "projection_dim": 12,
    }  # fmt: skip
    config = ClapConfig(text_config={**text, "intermediate_size": 8}, audio_config=audio, projection_dim=12)
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=16, sampling_rate=48_000, frequency_min=50, frequency_max=14_000, truncation="rand_trunc",
        padding="repeatpad", **window,
    ).save_pretrained(folder)  # fmt: skip
    return folder
