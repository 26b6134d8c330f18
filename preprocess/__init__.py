"""360° videos to training records: one stage per module, each a plain callable over frozen dataclasses."""
