"""PyTorch checkpoints to and from the Orbax folders of con360av_jax."""
