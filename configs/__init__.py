"""One frozen config value per file."""
