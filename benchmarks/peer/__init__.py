"""The training step in PyTorch with which `train_step` is compared."""
