"""Running the stages: the chain, the engine that executes it, and the dataset that it fills."""
