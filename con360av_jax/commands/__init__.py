"""The verbs of the command line, one per module; what is heavy is imported when the verb runs."""
