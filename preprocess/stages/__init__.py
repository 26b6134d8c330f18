"""The stages of preprocessing, one per module; `preprocess.running.pipeline` lists them in order."""
