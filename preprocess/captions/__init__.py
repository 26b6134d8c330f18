"""Captions of segments: contract, choice and backends."""
