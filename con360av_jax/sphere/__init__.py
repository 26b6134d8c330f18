"""Geometry on the sphere in numpy: directions, viewpoints, distance maps, ambisonics."""
