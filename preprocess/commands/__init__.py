"""The verbs of `python -m preprocess`, one module each."""
