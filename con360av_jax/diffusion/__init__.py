"""Diffusion over dicts of modalities: schedules, noise, loss, guidance and sampling, as pure functions."""
