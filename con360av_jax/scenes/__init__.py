"""The procedural 360° world: scenes, their look and sound, their truth, and judging clips by it."""
