"""Files of the PyTorch side: Hugging Face downloads, folder layouts, tensor files, weight normalisation."""
