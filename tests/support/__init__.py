"""Helpers of tests: small configs and networks, files of every kind, originals to compare with."""
