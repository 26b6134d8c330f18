"""The frozen pretrained networks on disk and in memory: parts, weights, tokenizers, codecs."""
