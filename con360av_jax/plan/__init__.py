"""Memory, arithmetic and communication of a training step, from its compiled program alone."""
