"""Timings against the original libraries and of the system's own parts; results/ holds what they printed."""
