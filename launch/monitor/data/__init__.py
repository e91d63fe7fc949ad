"""The figures that the monitor shows, worked out of what is known. Pure."""
