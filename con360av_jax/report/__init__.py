"""The HTML page about one training run."""
