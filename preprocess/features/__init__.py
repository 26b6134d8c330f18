"""The networks whose outputs generated and real material are compared by: pictures, sounds and clips as numbers."""
