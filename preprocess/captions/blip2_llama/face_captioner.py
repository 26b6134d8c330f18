"""BLIP-2: one phrase per image, in batches.

Source: Li et al., BLIP-2 (arXiv 2301.12597); the classes of transformers 5.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from con360av_jax.errors import CheckpointError
from preprocess.captions.blip2_llama.model_folders import TextModel, generate_greedily, model_type
from preprocess.captions.blip2_llama.prompts import FACE_TOKENS


def check_blip2(folder: Path) -> None:
    """Raises CheckpointError if the folder does not hold a BLIP-2."""
    found = model_type(folder)
    if found != "blip-2":
        raise CheckpointError(f"{folder}: is a {found!r} model; give a Blip2ForConditionalGeneration")


class FaceCaptioner(TextModel):
    """A loaded BLIP-2 that writes one phrase per RGB image."""

    def _open(self) -> None:
        check_blip2(self._folder)
        from transformers import Blip2ForConditionalGeneration

        self._model = self._load(Blip2ForConditionalGeneration)
        self._processor = _processor(self._folder, self._model)
        generate_greedily(self._model.language_model.generation_config, FACE_TOKENS)

    @property
    def face_size(self) -> int:
        """Height and width of the images that the model takes, pixels; others are resized."""
        return self._model.config.vision_config.image_size

    def _batch(self, items: UInt8[np.ndarray, "face height width 3"]) -> list[str]:
        import torch

        inputs = self._processor(
            images=list(items),
            text=[self._prompts.face] * len(items),
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
