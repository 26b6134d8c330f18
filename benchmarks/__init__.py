"""Timings against the original libraries and of this project's own parts; README.md lists every published number."""
