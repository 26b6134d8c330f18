"""Training: the step and its state, checkpoints, the loop and what it writes."""
