"""The process and machine around a computation: compile cache and flags, memory, provenance, FLOPs."""
