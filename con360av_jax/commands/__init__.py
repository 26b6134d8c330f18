"""The commands of the command line, one per module; heavy packages are imported when a command runs."""
