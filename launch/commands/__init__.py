"""The commands of `sor`, one per file."""
