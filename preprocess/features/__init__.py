"""Feature extraction: networks whose outputs on generated and real clips evaluations compare."""
