"""The verbs of `sor`, one to a file."""
