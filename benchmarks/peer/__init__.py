"""The training step written in PyTorch: what `train_step` is timed and compared with."""
