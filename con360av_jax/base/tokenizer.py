"""The two tokenizers, loaded from files or trained offline on procedural captions (about one token per word).

A trained tokenizer has the class, byte alphabet, order of the vocabulary and special tokens of the original:
CLIP      bytes, bytes that end a word, merges, <|startoftext|>, <|endoftext|> (also the padding); lower-cases
RoBERTa   <s> = 0, <pad> = 1, </s> = 2, <unk> = 3, bytes, merges, <mask>
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Int32
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, RobertaTokenizer

from con360av_jax.config.settings import Config
from con360av_jax.errors import CheckpointError, ConfigError, first_line
from con360av_jax.scenes.synthetic import captions_corpus

TextTokenizer: TypeAlias = CLIPTokenizer | RobertaTokenizer

CLASSES = {"audio": RobertaTokenizer, "video": CLIPTokenizer}
# Captions of each version of procedural scenes use some eighty words; each occurs many times in this many captions.
CORPUS = 300
ROBERTA_FIRST, ROBERTA_LAST = ("<s>", "<pad>", "</s>", "<unk>"), ("<mask>",)
CLIP_LAST = ("<|startoftext|>", "<|endoftext|>")
WORD_END = "</w>"


def train_tokenizers(config: Config, seed: int) -> dict[str, TextTokenizer]:
    """Both tokenizers, trained on captions of procedural scenes; the same `seed` gives the same files.

    Raises ConfigError if a vocabulary has no room for all bytes and the special tokens.
    """
    corpus = [caption for version in (1, 2) for caption in captions_corpus(CORPUS, seed, version)]
    audio, video = config.model.text.audio, config.model.text.video
    clip = _train_clip(corpus, video.vocabulary)
    roberta = _train_roberta(corpus, audio.vocabulary)
    clip.model_max_length, roberta.model_max_length = video.tokens, audio.tokens
    return {"audio": roberta, "video": clip}


def _train_clip(corpus: Sequence[str], vocabulary: int) -> CLIPTokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet = [*letters, *(letter + WORD_END for letter in letters)]
    merges = _merges(CLIPTokenizer(), corpus, alphabet, vocabulary - len(CLIP_LAST), WORD_END)
    return CLIPTokenizer(vocab=_numbered(*alphabet, *map("".join, merges), *CLIP_LAST), merges=merges)


def _train_roberta(corpus: Sequence[str], vocabulary: int) -> RobertaTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges(RobertaTokenizer(), corpus, alphabet, vocabulary - len(ROBERTA_FIRST) - len(ROBERTA_LAST), "")
    vocab = _numbered(*ROBERTA_FIRST, *alphabet, *map("".join, merges), *ROBERTA_LAST)
    return RobertaTokenizer(vocab=vocab, merges=merges)


def _numbered(*tokens: str) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _merges(like: TextTokenizer, corpus: Sequence[str], alphabet: Sequence[str], size: int, word_end: str) -> list:
    """Merges of byte-pair encoding, most frequent first, at most `size - len(alphabet)`."""
    if size < len(alphabet):
        raise ConfigError(
            f"a {type(like).__name__} needs a vocabulary of at least {len(alphabet)} bytes and its special tokens, "
            f"but only {size} tokens besides the special ones were given: raise model.text.*.vocabulary"
        )
    learner = Tokenizer(models.BPE(end_of_word_suffix=word_end))
    learner.normalizer = like.backend_tokenizer.normalizer
    learner.pre_tokenizer = like.backend_tokenizer.pre_tokenizer
    # A given alphabet fixes its ids, by which the trainer breaks ties; otherwise merges change from run to run.
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(alphabet), end_of_word_suffix=word_end, show_progress=False
    )
    learner.train_from_iterator(corpus, trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


def load_tokenizer(folder: Path, modality: str) -> TextTokenizer:
    """Reads `folder` (transformers' files) without network; raises CheckpointError if it is missing or corrupt."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is missing: make or convert the pretrained folder again")
    try:
        return CLASSES[modality].from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} holds no {CLASSES[modality].__name__}: {first_line(error)}") from error


def tokenise(
    tokenizer: TextTokenizer, captions: Sequence[str], tokens: int
) -> tuple[Int32[np.ndarray, "batch token"], Bool[np.ndarray, "batch token"]]:
    """Token ids and a mask that is False on padding; captions are cut or padded to `tokens`."""
    encoded = tokenizer(list(captions), padding="max_length", truncation=True, max_length=tokens, return_tensors="np")
    return encoded["input_ids"].astype(np.int32), encoded["attention_mask"].astype(bool)
