"""config.json of diffusers and transformers to and from the settings of our networks."""
