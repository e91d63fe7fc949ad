"""All files of a run directory: names, shapes, atomic writes, and reading files that may be damaged."""
