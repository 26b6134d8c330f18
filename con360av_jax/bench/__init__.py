"""Benchmarks of parts of training on this machine."""
