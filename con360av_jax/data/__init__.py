"""Records: their format, writing and reading datasets, and batches for training."""
