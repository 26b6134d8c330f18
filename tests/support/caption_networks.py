"""BLIP-2 (with OPT and with T5) and Llama in small: random weights and word tokenizers, saved by the real classes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

torch = pytest.importorskip("torch", reason="caption models are PyTorch's: pip install -e '.[torch]'")

from transformers import (  # noqa: E402
    Blip2Config,
    Blip2ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

PICTURE = 28
QUERIES = 4
WORDS = ["a", "photo", "of", "dog", "park", "street", "child", "ball", "tree", "river", "boat", "wind", "under"]
WORDS += ["near", "red", "green", "two", "old", "runs", "sings"]
# Like Llama's: it greets with today's date unless it is given one.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y %H %M %S') %}"
    "{% endif %}{{ date_string }}{% for message in messages %} <{{ message['role'] }}> {{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %} <assistant>{% endif %}"
)


def word_tokenizer(**marks: str) -> PreTrainedTokenizerFast:
    """One token per known word, whole answers are words with spaces between them."""
    vocabulary = {word: number for number, word in enumerate(["</s>", "<pad>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="</s>", eos_token="</s>", unk_token="<unk>", **marks
    )


def save_blip2(folder: Path, language: str = "opt", **changes: Any) -> Path:
    """A BLIP-2 with `language` "opt" or "t5"; its processor files are as old as the published ones."""
    tokenizer = word_tokenizer(pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    settings = {"image_processor_type": "BlipImageProcessor", "size": {"height": PICTURE, "width": PICTURE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text: dict[str, Any] = {"vocab_size": len(tokenizer) + 3, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0}
    text["tie_word_embeddings"] = False
    if language == "opt":
        text |= {"model_type": "opt", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        text |= {"ffn_dim": 16, "max_position_embeddings": 64, "word_embed_proj_dim": 16}
    else:
        text |= {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
        text |= {"decoder_start_token_id": 1}
    config = Blip2Config(
        vision_config=tower | {"image_size": PICTURE, "patch_size": 14},
        qformer_config=tower | {"encoder_hidden_size": 16, "vocab_size": 8},
        text_config=text | changes,
        num_query_tokens=QUERIES,
    )
    return _save(folder, lambda: Blip2ForConditionalGeneration(config))


def save_llama(folder: Path, chat_template: str | None = CHAT_TEMPLATE, **changes: Any) -> Path:
    """A Llama without pad token, like the published one, whose own settings sample."""
    tokenizer = word_tokenizer()
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=768,
        bos_token_id=0,
        eos_token_id=0,
        **changes,
    )
    _save(folder, lambda: LlamaForCausalLM(config))
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "bos_token_id": 0, "eos_token_id": [0]})
    )
    return folder


def silence(folder: Path) -> Path:
    """The model of `folder` changed so that it ends before its first word: all tokens are equal, the first one wins."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    model: Any = {"blip-2": Blip2ForConditionalGeneration, "llama": LlamaForCausalLM}[kind].from_pretrained(folder)
    language = model.language_model if kind == "blip-2" else model
    with torch.no_grad():
        head = language.get_output_embeddings()
        head.weight = torch.nn.Parameter(torch.zeros_like(head.weight))
    model.save_pretrained(folder)
    return folder


def _save(folder: Path, make: Callable[[], Any]) -> Path:
    torch.manual_seed(0)
    model = make().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            # As initialised, queries are zero and pictures have no effect on the words. Norms stay as they are.
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder
