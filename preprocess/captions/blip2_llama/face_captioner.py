"""BLIP-2: one phrase per image, in batches.

Source: Li et al., BLIP-2 (arXiv 2301.12597); the classes of transformers 5.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from con360av_jax.errors import CheckpointError
from preprocess.captions.blip2_llama.model_folders import (
    Precision,
    choose_device,
    choose_dtype,
    fits,
    generate_greedily,
    load_model,
    model_type,
    require_torch,
)
from preprocess.captions.blip2_llama.prompts import FACE_TOKENS, Prompts


def check_blip2(folder: Path) -> None:
    """Raises CheckpointError if the folder does not hold a BLIP-2."""
    found = model_type(folder)
    if found != "blip-2":
        raise CheckpointError(f"{folder}: is a {found!r} model; give a Blip2ForConditionalGeneration")


class FaceCaptioner:
    """A loaded BLIP-2 that writes one phrase per image."""

    def __init__(
        self,
        model_folder: Path,
        device: str = "auto",
        dtype: Precision = "auto",
        *,
        prompts: Prompts,
        batch_size: int = 24,
    ):
        """Loads the model.

        Args:
            model_folder: folder of a Blip2ForConditionalGeneration, with its tokenizer and image processor.
            device: "auto", "cpu", "cuda", "cuda:1" ..
            dtype: dtype of weights and activations; in float16 the Q-Former stays float32.
            prompts: prompts; the model continues `face`.
            batch_size: images per call of the model.

        Raises:
            CheckpointError: torch is missing, or the folder is no BLIP-2, incomplete or corrupt.
            ConfigError: no such device, or it is full.
        """
        require_torch()
        check_blip2(model_folder)
        from transformers import Blip2ForConditionalGeneration

        self.batch_size, self._prompt = batch_size, prompts.face
        self._device = choose_device(device)
        self._dtype = choose_dtype(dtype, self._device)
        self._model = load_model(Blip2ForConditionalGeneration, model_folder, self._device, self._dtype)
        self._processor = _processor(model_folder, self._model)
        generate_greedily(self._model.language_model.generation_config, FACE_TOKENS)

    @property
    def face_size(self) -> int:
        """Height and width of the images that the model takes, pixels; others are resized."""
        return self._model.config.vision_config.image_size

    def __call__(self, faces: UInt8[np.ndarray, "face height width 3"]) -> list[str]:
        """One phrase per RGB image, which may be empty; raises ConfigError if a batch exceeds the device's memory."""
        texts: list[str] = []
        for first in range(0, len(faces), self.batch_size):
            with fits(self._device, f"describing {self.batch_size} faces"):
                texts += self._batch(faces[first : first + self.batch_size])
        return texts

    def _batch(self, faces: UInt8[np.ndarray, "face height width 3"]) -> list[str]:
        import torch

        inputs = self._processor(
            images=list(faces),
            text=[self._prompt] * len(faces),
            input_data_format="channels_last",
            return_tensors="pt",
        ).to(self._device, self._dtype)
        with torch.inference_mode():
            tokens = self._model.generate(**inputs)
        # Decoder-only models (OPT) return the prompt too; encoder-decoder models (T5) do not.
        if not self._model.language_model.config.is_encoder_decoder:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        written = self._processor.batch_decode(tokens, skip_special_tokens=True)
        # OPT was trained to end with its line; other models may go on.
        return [" ".join(text.strip().partition("\n")[0].split()) for text in written]


def _processor(folder: Path, model: Any) -> Any:
    """Tokenizer and image processor, set to the model's number of query tokens.

    Raises CheckpointError if the folder lacks one of them, or the tokenizer has more tokens than the model.
    """
    from transformers import AutoImageProcessor, AutoTokenizer, Blip2Processor

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # Pillow, not torchvision: the same pixels whether or not torchvision is installed.
        images = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise CheckpointError(f"{folder}: has no usable tokenizer or image processor: {error}") from error
    # Older folders lack num_query_tokens, without which the image has no place before the prompt.
    processor = Blip2Processor(images, tokenizer, num_query_tokens=model.config.num_query_tokens)
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    known = model.get_input_embeddings().num_embeddings
    if image_token >= known:
        raise CheckpointError(
            f"{folder}: the tokenizer has {image_token + 1} tokens, the model {known}; give a matching pair"
        )
    # Any id serves as long as both agree: the image's embedding replaces that of the token.
    model.config.image_token_index = image_token
    return processor
