"""What a training step needs, from its program alone: memory, arithmetic and what crosses the wire."""
