"""Metrics over stored features and clips, in numpy."""
