"""Both text encoders at published width, converted JAX against transformers' CLIP and CLAP text models.

python -m benchmarks.text --out benchmarks/results/text_cpu.json
"""

import numpy as np

from benchmarks import comparison
from con360av_jax.base.codecs import CAPTIONS_AT_ONCE
from con360av_jax.config.settings import Config


def cases(config: Config) -> list[comparison.Case]:
    """One caption and a batch of captions, padded as in the pipelines."""
    random = np.random.default_rng(0)
    found = []
    for captions in (1, CAPTIONS_AT_ONCE):
        clip, clap = config.model.text.video, config.model.text.audio
        tokens = random.integers(3, clip.vocabulary - 2, (captions, clip.tokens)).astype(np.int32)
        found.append(
            comparison.Case(
                name=f"CLIP, {captions} x {clip.tokens} tokens",
                component="text_encoder_v",
                inputs=(tokens,),
                ours=lambda encoder, tokens: encoder(tokens),
                theirs=lambda encoder, tokens: encoder(tokens).last_hidden_state,
                to_theirs=lambda tokens: (tokens,),
                from_theirs=lambda states: states,
            )
        )
        tokens = random.integers(3, clap.vocabulary - 2, (captions, clap.tokens)).astype(np.int32)
        # A sentence of 24 tokens; the rest is padding, which is masked.
        mask = np.broadcast_to(np.arange(clap.tokens) < 24, tokens.shape)
        tokens = np.where(mask, tokens, clap.pad_token).astype(np.int32)
        found.append(
            comparison.Case(
                name=f"CLAP, {captions} x {clap.tokens} tokens",
                component="text_encoder_a",
                inputs=(tokens, mask),
                ours=lambda encoder, tokens, mask: encoder(tokens, mask),
                theirs=_clap,
                to_theirs=lambda tokens, mask: (tokens, mask.astype(np.int64)),
                from_theirs=lambda embedding: embedding,
            )
        )
    return found


def _clap(encoder, tokens, mask):  # noqa: ANN001, ANN202
    import torch

    # AudioLDM's pipeline normalises, not the text encoder.
    return torch.nn.functional.normalize(encoder(tokens, mask).text_embeds, dim=-1)


if __name__ == "__main__":
    comparison.main(__doc__, cases)
