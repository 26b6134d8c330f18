"""The verbs of `python -m preprocess`, one per module."""
