"""Saliency of segments: contract, choice and backends."""
