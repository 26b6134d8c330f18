"""The networks as Flax NNX modules."""
