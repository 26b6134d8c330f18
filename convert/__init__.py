"""Conversion of published PyTorch weights to pretrained folders of con360av_jax, and back."""
