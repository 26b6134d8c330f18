"""Objectives of pretraining: the data and the loss of each part of a base, one per file."""
