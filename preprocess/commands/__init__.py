"""The commands of `python -m preprocess`, one per module."""
