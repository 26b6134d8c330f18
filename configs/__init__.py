"""Configs: each file defines one frozen value, `config`."""
