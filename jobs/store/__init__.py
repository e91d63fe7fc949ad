"""Every file of a run directory: names, shapes, atomic writes, and reading what may be damaged."""
