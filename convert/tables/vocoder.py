"""The vocoder: transformers' SpeechT5HifiGan, after its weight normalisation, if any, is folded (weight_norm.py)."""

from convert.rules import Rule, Table, conv1d, conv1d_transposed

VOCODER: Table = (
    Rule(r"(mean|scale)", r"\1"),
    Rule(r"(upsampler\.\d+)\.weight", r"\1.kernel", conv1d_transposed),
    Rule(r"(conv_pre|conv_post|resblocks\.\d+\.convs[12]\.\d+)\.weight", r"\1.kernel", conv1d),
    Rule(r"(conv_pre|conv_post|upsampler\.\d+|resblocks\.\d+\.convs[12]\.\d+)\.bias", r"\1.bias"),
)
