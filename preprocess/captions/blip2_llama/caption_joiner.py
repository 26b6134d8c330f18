"""Chat model, such as Llama 3.2 Instruct: joins the texts on a segment's faces into one sentence, in batches.

Source: Con360-AV (arXiv 2510.06060), section 2.1; the classes of transformers 5.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from preprocess.captions.blip2_llama.prompts import JOIN_TOKENS, Prompts
from preprocess.captions.blip2_llama.texts import FaceText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# CLIP reads 77 tokens including start and end; English has about 1.3 tokens per word.
MOST_WORDS = 55
# Llama's chat template inserts today's date unless it is given one; this is the template's own default.
DATE = "26 Jul 2024"
QUOTES = "\"'“”"


def open_chat_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Tokenizer of a chat model, padded on the left; raises CheckpointError if the folder holds no chat model."""
    from transformers import AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found = model_type(folder)
    if found not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise CheckpointError(f"{folder}: is a {found!r} model; give a chat model such as Llama 3.2 Instruct")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise CheckpointError(f"{folder}: has no usable tokenizer: {error}") from error
    if not tokenizer.chat_template:
        raise CheckpointError(f"{folder}: the tokenizer has no chat template; give an Instruct or chat model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise CheckpointError(f"{folder}: the tokenizer has neither pad_token nor eos_token; add one")
    return tokenizer


class CaptionJoiner:
    """A loaded chat model that writes one answer per segment."""

    def __init__(
        self,
        model_folder: Path,
        device: str = "auto",
        dtype: Precision = "auto",
        *,
        prompts: Prompts,
        batch_size: int = 8,
    ):
        """Loads the model.

        Args:
            model_folder: folder of a causal language model whose tokenizer has a chat template.
            device: "auto", "cpu", "cuda", "cuda:1" ..
            dtype: dtype of weights and activations.
            prompts: prompts; `line` and `join` are used.
            batch_size: segments per call of the model.

        Raises:
            CheckpointError: torch is missing, or the folder is no chat model, incomplete or corrupt.
            ConfigError: no such device, or it is full.
        """
        require_torch()
        from transformers import AutoModelForCausalLM

        self.batch_size, self._prompts, self._folder = batch_size, prompts, model_folder
        self._tokenizer = open_chat_tokenizer(model_folder)
        self._device = choose_device(device)
        dtype_found = choose_dtype(dtype, self._device)
        self._model = load_model(AutoModelForCausalLM, model_folder, self._device, dtype_found)
        generate_greedily(self._model.generation_config, JOIN_TOKENS)
        self._model.generation_config.pad_token_id = self._tokenizer.pad_token_id

    def __call__(self, segments: Sequence[Sequence[FaceText]]) -> list[str]:
        """The model's full answer for each segment, which may be empty.

        Raises CheckpointError if a prompt exceeds the model's context, ConfigError if a batch exceeds the memory.
        """
        answers: list[str] = []
        for first in range(0, len(segments), self.batch_size):
            with fits(self._device, f"joining {self.batch_size} segments"):
                answers += self._batch(segments[first : first + self.batch_size])
        return answers

    def _batch(self, segments: Sequence[Sequence[FaceText]]) -> list[str]:
        import torch

        chats = [[{"role": "user", "content": self._prompts.question(texts)}] for texts in segments]
        inputs: Any = self._tokenizer.apply_chat_template(
            chats,
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
            date_string=DATE,
        )
        inputs = inputs.to(self._device)
        length = inputs["input_ids"].shape[1]
        longest = getattr(self._model.config, "max_position_embeddings", None)
        if longest is not None and length + JOIN_TOKENS > longest:
            raise CheckpointError(
                f"{self._folder}: reads {longest} tokens, the prompt and answer need {length + JOIN_TOKENS}; "
                "give a model with a longer context or a shorter --caption-prompts"
            )
        with torch.inference_mode():
            tokens = self._model.generate(**inputs)
        return [text.strip() for text in self._tokenizer.batch_decode(tokens[:, length:], skip_special_tokens=True)]


def as_caption(answer: str) -> str:
    """A model's answer without introduction, quotes and line breaks, cut to MOST_WORDS words; may be empty."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = lines[1:]
    text = " ".join(lines)
    if len(text) > 1 and text[0] in QUOTES and text[-1] in QUOTES:
        text = text[1:-1]
    words = text.split()
    if len(words) <= MOST_WORDS:
        return " ".join(words)
    logging.getLogger(__name__).warning(
        "a caption of %d words was cut after %d: text encoders read 77 tokens; ask for a shorter one in the prompts",
        len(words),
        MOST_WORDS,
    )
    kept = " ".join(words[:MOST_WORDS])
    end = max(kept.rfind(mark) for mark in (". ", "; ", ", "))
    return (kept[:end] if end > len(kept) // 2 else kept).rstrip(".,;:") + "."
