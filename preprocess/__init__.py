"""360° videos to training records: stages/ has one module per stage, running/ executes them in order."""
