"""The `verify` command: original PyTorch networks and converted ones, run side by side."""
