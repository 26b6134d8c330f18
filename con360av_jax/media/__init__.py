"""Video and audio files: reading, writing, metadata, mel spectrograms."""
