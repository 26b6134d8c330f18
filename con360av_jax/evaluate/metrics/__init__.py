"""Metrics of features and clips, in numpy: Fréchet distance, S_KL, AV-Align, audio class, bootstrap intervals."""
