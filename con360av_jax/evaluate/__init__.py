"""Evaluation of generated clips: generation, features, metrics, comparisons, studies and their pages."""
