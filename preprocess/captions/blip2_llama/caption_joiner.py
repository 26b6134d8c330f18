"""Chat model, such as Llama 3.2 Instruct: joins the texts on a segment's faces into one sentence, in batches.

Source: Con360-AV (arXiv 2510.06060), section 2.1; the classes of transformers 5.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from con360av_jax.errors import CheckpointError
from preprocess.captions.blip2_llama.model_folders import TextModel, generate_greedily, model_type
from preprocess.captions.blip2_llama.prompts import JOIN_TOKENS
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


class CaptionJoiner(TextModel):
    """A loaded chat model that writes one answer per segment, given its face texts."""

    def _open(self) -> None:
        from transformers import AutoModelForCausalLM

        self._tokenizer = open_chat_tokenizer(self._folder)
        self._model = self._load(AutoModelForCausalLM)
        generate_greedily(self._model.generation_config, JOIN_TOKENS)
        self._model.generation_config.pad_token_id = self._tokenizer.pad_token_id

    def _batch(self, items: Sequence[Sequence[FaceText]]) -> list[str]:
        """Raises CheckpointError if a prompt exceeds the model's context."""
        import torch

        chats = [[{"role": "user", "content": self._prompts.question(texts)}] for texts in items]
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
