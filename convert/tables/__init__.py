"""One conversion table per family of checkpoints."""
