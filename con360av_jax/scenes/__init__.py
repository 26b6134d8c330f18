"""Procedural 360° scenes: content, rendering, audio, ground truth, and finding their objects in generated clips."""
